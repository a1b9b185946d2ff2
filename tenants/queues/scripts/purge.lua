-- Removes what waits or is delayed in a tenant queue, a bounded number at a time; leased entries stay.
-- KEYS: root
-- ARGV: token, most
-- Returns the ids removed; fewer than `most`: there is nothing left.
-- @include writable
-- @include lane
-- @include account
-- @include drop
local a = open(ARGV[1])
local most = tonumber(ARGV[2])
local removed = redis.call('ZRANGE', K.waiting .. a.token, 0, most - 1)
if #removed < most then
  local delayed = redis.call('ZRANGE', K.delayed .. a.token, 0, most - #removed - 1)
  for _, id in ipairs(delayed) do removed[#removed + 1] = id end
end
for _, id in ipairs(removed) do drop(a, id) end
if #removed > 0 then
  after_drops(a)
  save_accounts()
  save_lane()
end
return removed
