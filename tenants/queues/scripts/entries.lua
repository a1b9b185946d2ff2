-- What a tenant queue holds, a page at a time. Changes nothing.
-- KEYS: root
-- ARGV: token, number of entries to leave out, most
-- Returns {ids that wait or are delayed, in order; with the first page the leases: {slot, epoch, worker, entry id}}
-- Invariant: bounded by `most`, and by the queue's concurrency for the leases.
-- @include lease
local queue = open(ARGV[1])
local from, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local ids = redis.call('ZRANGE', K.waiting .. queue.token, from, from + most - 1)
if #ids < most then
  local skipped = math.max(0, from - redis.call('ZCARD', K.waiting .. queue.token))
  local delayed = redis.call('ZRANGE', K.delayed .. queue.token, skipped, skipped + most - #ids - 1)
  for _, id in ipairs(delayed) do ids[#ids + 1] = id end
end
local leases = {}
if from == 0 then
  for _, slot in ipairs(slots_of(queue)) do
    local lease = lease_in(queue, slot)
    if lease then leases[#leases + 1] = { slot, whole(lease.epoch), lease.worker, lease.id } end
  end
end
return { ids, leases }
