-- Removes what waits or is delayed in a tenant queue, a bounded number at a time; leased entries stay.
-- KEYS: root
-- ARGV: token, most
-- Returns the ids removed; fewer than `most`: nothing is left.
-- @include writable
-- @include drop
local queue = open(ARGV[1])
local most = tonumber(ARGV[2])
local ids = redis.call('ZRANGE', K.waiting .. queue.token, 0, most - 1)
if #ids < most then
  local delayed = redis.call('ZRANGE', K.delayed .. queue.token, 0, most - #ids - 1)
  for _, id in ipairs(delayed) do ids[#ids + 1] = id end
end
return drop_all(queue, ids)
