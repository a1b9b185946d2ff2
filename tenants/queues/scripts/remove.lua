-- Removes entries that wait or are delayed; leased ones stay.
-- KEYS: root
-- ARGV: token, entry ids
-- Returns the ids removed.
-- Invariant: an entry that runs is only ever ended by its lease's holder.
-- @include writable
-- @include lane
-- @include account
-- @include drop
local a = open(ARGV[1])
local removed = {}
for i = 2, #ARGV do
  if drop(a, ARGV[i]) then removed[#removed + 1] = ARGV[i] end
end
if #removed > 0 then
  after_drops(a)
  save_accounts()
  save_lane()
end
return removed
