-- Drops everything that a page of tenant queues holds, leases too: a running message finds its lease lost.
-- KEYS: root
-- ARGV: most tenant queues
-- Returns the number of tenant queues dropped; 0: the lane is empty.
-- @include writable
-- @include lease
local tokens = redis.call('ZRANGE', K.names, 0, tonumber(ARGV[1]) - 1)
for _, token in ipairs(tokens) do
  local queue = open(token)
  lane.waiting = lane.waiting - redis.call('ZCARD', K.waiting .. token)
  lane.delayed = lane.delayed - redis.call('ZCARD', K.delayed .. token)
  for _, slot in ipairs(slots_of(queue)) do redis.call('ZREM', K.leases, slot .. ':' .. token) end
  redis.call('UNLINK', K.waiting .. token, K.delayed .. token, K.entries .. token, K.slots .. token)
  delete_queue(queue)
end
if #tokens == 0 then redis.call('UNLINK', K.buried, K.buried_messages, K.bell) end
save_lane()
return #tokens
