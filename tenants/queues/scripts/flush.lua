-- Drops everything that a page of tenant queues holds, leases too: what runs finds its lease lost.
-- KEYS: root
-- ARGV: most tenant queues
-- Returns the number of tenant queues dropped; 0: the lane is empty.
-- @include writable
-- @include lane
-- @include account
-- @include lease
local tokens = redis.call('ZRANGE', K.names, 0, tonumber(ARGV[1]) - 1)
for _, token in ipairs(tokens) do
  local a = open(token)
  lane.waiting = lane.waiting - redis.call('ZCARD', K.waiting .. a.token)
  lane.delayed = lane.delayed - redis.call('ZCARD', K.delayed .. a.token)
  for _, slot in ipairs(slots_of(a)) do redis.call('ZREM', K.leases, slot .. ':' .. token) end
  redis.call('UNLINK', K.waiting .. a.token, K.delayed .. a.token, K.entries .. a.token, K.slots .. token)
  tear_down(a)
end
if #tokens == 0 then redis.call('UNLINK', K.buried, K.graves, K.bell) end
save_lane()
return #tokens
