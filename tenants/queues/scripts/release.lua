-- Ends leases whose holders are known to be dead: each entry is rescued as if its lease had expired.
-- KEYS: root
-- ARGV: for each lease: token, slot, epoch
-- Returns the number ended.
-- Invariant: only the named lease is ended; one that was settled or taken again meanwhile stays.
-- @include writable
-- @include start
local released = 0
read_states(ARGV, 1, 3)
for i = 1, #ARGV, 3 do
  if find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
    rescue(ARGV[i + 1] .. ':' .. ARGV[i])
    released = released + 1
  end
end
save()
signal_ready()
return released
