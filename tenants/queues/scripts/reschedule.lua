-- Records that a leased message shall run again, so that settle *or a rescue* applies it.
-- KEYS: root
-- ARGV: token, slot, epoch, delay in ms, message ('' leaves it as it is)
-- Returns 1, or 0 when the lease was lost.
-- Invariant: only the holder of the epoch records.
-- @include writable
-- @include lane
-- @include account
-- @include lease
local token, slot, message = ARGV[1], ARGV[2], ARGV[5]
local record, a = find_lease(token, slot, ARGV[3])
if not record then return 0 end
local key = K.entries .. token
local value = redis.call('HGET', key, record.id)
record.due = now + tonumber(ARGV[4])
keep_lease(a, slot, record)
close(a)
save_accounts()
local score, added, deliveries = decode_entry(value or '')
if message ~= '' and score then
  redis.call('HSET', key, record.id, encode_entry(score, added, deliveries, message))
end
return 1
