-- Records on a lease that its message shall run again later; settle or rescue applies it.
-- KEYS: root
-- ARGV: token, slot, epoch, delay in ms, message ('': unchanged)
-- Returns 1, or 0 if the lease is lost.
-- Invariant: only the holder of the epoch records.
-- @include writable
-- @include lease
local token, slot, message = ARGV[1], ARGV[2], ARGV[5]
local lease, queue = find_lease(token, slot, ARGV[3])
if not lease then return 0 end
lease.due = now + tonumber(ARGV[4])
keep_lease(queue, slot, lease)
mark_changed(queue)
save()
local score, added, deliveries = decode_entry(redis.call('HGET', K.entries .. token, lease.id))
if message ~= '' and score then
  redis.call('HSET', K.entries .. token, lease.id, encode_entry(score, added, deliveries, message))
end
return 1
