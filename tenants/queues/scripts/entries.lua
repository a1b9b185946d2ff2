-- What a tenant queue holds, a page at a time. Changes nothing.
-- KEYS: root
-- ARGV: token, number of entries to leave out, most
-- Returns {ids that wait or are delayed, in their order; leases: {slot, epoch, worker, entry id}, with the first page}
-- Invariant: bounded by `most`, and by the queue's concurrency for the leases.
-- @include lane
-- @include account
-- @include lease
local a = open(ARGV[1])
local from, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local ids = redis.call('ZRANGE', K.waiting .. a.token, from, from + most - 1)
if #ids < most then
  local skipped = math.max(0, from - redis.call('ZCARD', K.waiting .. a.token))
  local delayed = redis.call('ZRANGE', K.delayed .. a.token, skipped, skipped + most - #ids - 1)
  for _, id in ipairs(delayed) do ids[#ids + 1] = id end
end
local leases = {}
if from == 0 then
  for _, slot in ipairs(slots_of(a)) do
    local record = lease_in(a, slot)
    if record then leases[#leases + 1] = { slot, whole(record.epoch), record.worker, record.id } end
  end
end
return { ids, leases }
