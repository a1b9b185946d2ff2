-- Leases. Needs account.lua. Gives: take(a, ...), find_lease, release, put_back, bury, rescue_some, decode_lease,
-- tell_worker(worker, field, value) and save_worker(worker).
-- Invariant: a slot is used exactly while its lease record stands in the queue's slots hash; the lane's zset of
-- expiry times and the worker's hash are written with it, in the same script.
-- Lease record: epoch:worker:request:charge:rated:due:deliveries:entry id
-- (charge: µs charged at the claim; rated: 1 when a rate token was taken; due: ms of a recorded reschedule, or 0).
local WORKER_TTL = 600000
local BURIED_TTL = 604800000
local LEAST_CHARGE = 100
local SPENT_STEP = 10000 -- µs

local function encode_lease(r)
  -- The id is joined, not formatted, because Lua's %s stops at a zero byte.
  return format('%d:%s:%s:%d:%s:%d:%s:', r.epoch, r.worker, r.request, r.charge, r.rated, r.due,
    r.deliveries) .. r.id
end

local function decode_lease(raw)
  local epoch, worker, request, charge, rated, due, deliveries, id =
    string.match(raw, '^(%d+):([^:]*):(%d+):(%d+):(%d+):(%d+):(%d+):(.*)$')
  return { epoch = tonumber(epoch), worker = worker, request = request, charge = tonumber(charge), rated = rated,
    due = tonumber(due), deliveries = tonumber(deliveries), id = id }
end

-- What a call has to write in its worker's hash, in one command at its end.
local worker_fields = {}

local function tell_worker(field, value)
  worker_fields[#worker_fields + 1] = field
  worker_fields[#worker_fields + 1] = value
end

local function save_worker(worker)
  if #worker_fields > 0 then redis.call('HSET', K.worker .. worker, unpack(worker_fields)) end
end

local function free_slot(a)
  if a.concurrency == 1 then return '0' end
  if a.concurrency == UNLIMITED then
    lane.slot = lane.slot + 1
    return whole(lane.slot)
  end
  local used = {}
  for _, slot in ipairs(redis.call('HKEYS', a.slots)) do used[slot] = true end
  for slot = 0, a.concurrency - 1 do
    if not used[tostring(slot)] then return tostring(slot) end
  end
end

-- Starts the first waiting entry of an account that was taken out of ready. Returns the claimed message as
-- {token, slot, epoch, entry id, stored entry}, or nil.
local function take(a, start, worker, request, lease_ms)
  if start > lane.v then lane.v = start end
  promote(a)
  local heads = redis.call('ZRANGE', a.waiting, 0, 1)
  local id = heads[1]
  local value = id and redis.call('HGET', a.entries, id)
  local slot = value and free_slot(a)
  if not slot or start_at(a) ~= 0 then
    if id and not value then
      redis.call('ZREM', a.waiting, id)
      lane.waiting = lane.waiting - 1
      a.head_changed = true
    end
    place(a)
    close(a)
    return nil
  end
  local _, added, deliveries = decode_entry(value)
  lane.starts = lane.starts + 1
  lane.dwelt = lane.dwelt + math.max(0, now - added)
  lane.epoch = math.max(lane.epoch + 1, now_us)
  local rated = 0
  if a.limits.rate_limit > 0 then
    rated = 1
    a.rate_at = math.max(a.rate_at, now) + a.limits.rate_per / a.limits.rate_limit
  end
  local charge = math.max(a.estimate, LEAST_CHARGE)
  a.v = start + charge / a.limits.weight
  a.used_at = now
  local record = { epoch = lane.epoch, worker = worker, request = request, charge = charge, rated = rated, due = 0,
    deliveries = deliveries, id = id }
  local member = slot .. ':' .. a.token
  redis.call('ZREM', a.waiting, id)
  redis.call('HSET', a.slots, slot, encode_lease(record))
  redis.call('ZADD', K.leases, whole(now + lease_ms), member)
  local epoch = whole(lane.epoch)
  tell_worker(member, epoch .. ':' .. request)
  lane.waiting = lane.waiting - 1
  a.head_changed = true
  a.next_id = heads[2]
  a.running = a.concurrency == 1 and 1 or nil
  place(a)
  close(a)
  return { a.token, slot, epoch, id, value }
end

-- The lease record, if it is still this lease.
local function find_lease(token, slot, epoch)
  local raw = redis.call('HGET', K.slots .. token, slot)
  if not raw then return nil end
  local record = decode_lease(raw)
  if record.epoch ~= tonumber(epoch) then return nil end
  return record
end

-- Ends the lease: the slot is free, and the account is charged what it used instead of the estimate.
local function release(a, slot, record, started)
  local member = slot .. ':' .. a.token
  redis.call('HDEL', a.slots, slot)
  redis.call('ZREM', K.leases, member)
  redis.call('HDEL', K.worker .. record.worker, member)
  a.running = a.concurrency == 1 and 0 or nil
  if not started then
    a.v = math.max(0, a.v - record.charge / a.limits.weight)
    if record.rated == '1' and a.limits.rate_limit > 0 then
      a.rate_at = a.rate_at - a.limits.rate_per / a.limits.rate_limit
    end
    return
  end
  local used = math.max(0, now_us - record.epoch)
  a.v = a.v + (math.max(used, LEAST_CHARGE) - record.charge) / a.limits.weight
  if a.v > lane.v + MOST_DEBT then a.v = lane.v + MOST_DEBT end
  if a.v < 0 then a.v = 0 end
  a.estimate = a.estimate + (used - a.estimate) * 0.2
  a.used_at = now
  lane.mean = lane.mean + (used - lane.mean) * 0.05
  lane.worked = lane.worked + used
  -- The hour's account is kept in steps, so that short messages do not pay for it each time.
  a.spent = a.spent + used
  if a.spent >= SPENT_STEP then
    local hour = K.spent .. floor(now / 3600000)
    if tonumber(redis.call('ZINCRBY', hour, whole(a.spent), a.token)) == a.spent then
      redis.call('PEXPIRE', hour, 7500000)
    end
    a.spent = 0
  end
end

local function bury(a, id, score, reason, message)
  local burial = whole(math.max(lane.epoch + 1, now_us))
  lane.epoch = tonumber(burial)
  redis.call('HDEL', a.entries, id)
  redis.call('ZADD', K.buried, now, burial)
  redis.call('HSET', K.graves, burial, cjson.encode({ #a.token, #id, #reason }) .. '\n' .. a.token .. id .. reason ..
    message)
  local old = redis.call('ZRANGEBYSCORE', K.buried, '-inf', now - BURIED_TTL, 'LIMIT', 0, 10)
  for _, each in ipairs(old) do
    redis.call('ZREM', K.buried, each)
    redis.call('HDEL', K.graves, each)
  end
end

-- Gives an entry back to its queue with its old sequence. `due` 0: it waits at once.
local function put_back(a, record, due, deliveries, message)
  local value = redis.call('HGET', a.entries, record.id)
  if not value then return end
  local score, added, _, start = decode_entry(value)
  if due > now then
    if a.limits.strict then
      a.hold = math.max(a.hold, due)
      due = 0
    end
  else
    due = 0
  end
  local since = due > 0 and due or (message and now or added)
  redis.call('HSET', a.entries, record.id,
    encode_entry(score, since, deliveries, message or string.sub(value, start)))
  if due > 0 then put_delayed(a, record.id, due) else put_waiting(a, record.id, score) end
end

-- A lease that expired: the entry goes back, as its reschedule says where one was recorded, and the loss is counted.
local function rescue(member)
  local slot, token = string.match(member, '^(%d+):(.*)$')
  local a = open(token)
  local raw = redis.call('HGET', a.slots, slot)
  if not raw then
    redis.call('ZREM', K.leases, member)
    return
  end
  local record = decode_lease(raw)
  release(a, slot, record, true)
  redis.call('PEXPIRE', K.worker .. record.worker, WORKER_TTL)
  if record.due > 0 then
    put_back(a, record, record.due, 0)
  elseif a.limits.max_deliveries > 0 and record.deliveries + 1 >= a.limits.max_deliveries then
    local value = redis.call('HGET', a.entries, record.id)
    if value then
      local score, _, _, start = decode_entry(value)
      bury(a, record.id, score, 'max_deliveries', string.sub(value, start))
    end
  else
    put_back(a, record, 0, record.deliveries + 1)
  end
  place(a)
  close(a)
end

-- Returns how many leases had expired and were ended, at most `most`.
local function rescue_some(most)
  local expired = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, most)
  for _, member in ipairs(expired) do rescue(member) end
  return #expired
end
