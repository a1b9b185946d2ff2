-- Leases. Needs account.lua. Gives: take(a, ...), slots_of(a), lease_in(a, slot), may_be_leased(a, id),
-- keep_lease(a, slot, record), find_lease(token, slot, epoch), release, put_back, bury, rescue_some and save_leases(), which each script that takes
-- or ends leases calls before its end.
-- Invariant: a slot is used exactly while its lease record stands in the queue's state (slot 0) or in its slots hash;
-- the lane's zset of expiry times is written with it, in the same script.
local WORKER_TTL = 600000
local BURIED_TTL = 604800000
local LEAST_CHARGE = 100
local SPENT_STEP = 10000 -- µs

-- What a call has to write in the zset of leases, by key: one command each for all of its messages.
local expiries, ended = {}, {}

local function save_leases()
  call_each('ZREM', ended)
  call_each('ZADD', expiries)
  expiries, ended = {}, {}
end

-- The taken slots, as text.
local function slots_of(a)
  local slots = a.others > 0 and redis.call('HKEYS', K.slots .. a.token) or {}
  if a.held then slots[#slots + 1] = '0' end
  return slots
end

local function lease_in(a, slot)
  if slot == '0' then return a.held end
  local raw = redis.call('HGET', K.slots .. a.token, slot)
  return raw and decode_lease(raw, 1) or nil
end

-- Whether a lease of the queue has the entry, or one whose record was lost: nobody knows which entry that has.
local function may_be_leased(a, id)
  for _, slot in ipairs(slots_of(a)) do
    local record = lease_in(a, slot)
    if not record or record.id == '' or record.id == id then return true end
  end
  return false
end

local function keep_lease(a, slot, record)
  if slot == '0' then
    a.held = record
  else
    a.others = a.others + redis.call('HSET', K.slots .. a.token, slot, encode_lease(record))
  end
end

local function drop_lease(a, slot)
  if slot == '0' then
    a.held = nil
  else
    a.others = a.others - redis.call('HDEL', K.slots .. a.token, slot)
  end
end

local function free_slot(a)
  if a.concurrency == 1 then return '0' end
  if a.concurrency == UNLIMITED then
    lane.slot = math.max(lane.slot + 1, now)
    return whole(lane.slot)
  end
  local used = {}
  for _, slot in ipairs(slots_of(a)) do used[slot] = true end
  for slot = 0, a.concurrency - 1 do
    if not used[tostring(slot)] then return tostring(slot) end
  end
end

-- A claimed message as the worker is told of it, at the end of a list.
local CLAIM_FIELDS = 5
local function tell_claim(claimed, token, slot, epoch, id, value)
  local n = #claimed
  claimed[n + 1], claimed[n + 2], claimed[n + 3], claimed[n + 4], claimed[n + 5] = token, slot, epoch, id, value
end

-- Takes the first waiting entry out of the row: its id, and what is stored, if it is.
local function take_first(a)
  local waiting, entries = K.waiting .. a.token, K.entries .. a.token
  if a.count == 1 then
    local id = redis.call('ZPOPMIN', waiting)[1]
    if not id then return nil end
    note_taken(a, 1)
    return id, redis.call('HGET', entries, id)
  end
  local heads = redis.call('ZRANGE', waiting, 0, 1)
  local id, following = heads[1], heads[2]
  if not id then return nil end
  take_waiting(a, id)
  if not following then
    recount(a) -- more were counted than wait
    return id, redis.call('HGET', entries, id)
  end
  local values = redis.call('HMGET', entries, id, following)
  if values[2] then a.head_added = string.match(values[2], '^%d+:(%d+):') end
  return id, values[1]
end

-- Starts the first waiting entry of an account that was taken out of ready, and tells of it in `claimed`.
local function take(a, start, worker, request, lease_ms, claimed)
  if start > lane.v then lane.v = start end
  promote(a)
  local slot = start_at(a) == 0 and free_slot(a)
  local id, value, added, deliveries
  if slot then
    id, value = take_first(a)
    added, deliveries = string.match(value or '', '^%d+:(%d+):(%d+):')
  end
  if not added then
    if slot then -- nothing waits, or it has no message that can be read
      recount(a)
      a.damaged = true
    end
    place(a)
    close(a)
    return
  end
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
  local record = { lane.epoch, request, charge, rated, 0, tonumber(deliveries), worker, id }
  keep_lease(a, slot, record)
  add_to(expiries, S.leases, whole(now + lease_ms), slot .. ':' .. a.token)
  place(a)
  close(a)
  tell_claim(claimed, a.token, slot, whole(lane.epoch), id, value)
end

-- The lease record, if it is still this lease, and its queue.
local function find_lease(token, slot, epoch)
  local a = open(token)
  local record = lease_in(a, slot)
  if not record or record.epoch ~= tonumber(epoch) then return nil end
  return record, a
end

-- Ends the lease: the slot is free, and the account is charged what it used instead of the estimate.
local function release(a, slot, record, started)
  drop_lease(a, slot)
  add_to(ended, S.leases, slot .. ':' .. a.token)
  if not started then
    a.v = math.max(0, a.v - record.charge / a.limits.weight)
    if record.rated == 1 and a.limits.rate_limit > 0 then
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
  redis.call('HDEL', K.entries .. a.token, id)
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
  local value = redis.call('HGET', K.entries .. a.token, record.id)
  local score, added, _, start = decode_entry(value or '')
  if not score then
    a.damaged = true
    return
  end
  if due <= now then due = 0 end
  local since = due > 0 and due or (message and now or added)
  if due > 0 and a.limits.strict then
    a.hold = math.max(a.hold, due)
    due = 0
  end
  redis.call('HSET', K.entries .. a.token, record.id,
    encode_entry(score, since, deliveries, message or string.sub(value, start)))
  if due > 0 then put_delayed(a, record.id, due) else put_waiting(a, record.id, score, since) end
end

-- An expiry time without a lease that can be read: the slot is free.
local function free_lost_slot(a, slot, member)
  redis.call('ZREM', K.leases, member)
  redis.call('HDEL', K.slots .. a.token, slot)
  recount(a)
  if a.stands then
    a.damaged = true
    place(a)
    close(a)
  end
end

-- A lease that expired: the entry goes back, as its reschedule says where one was recorded, and the loss is counted.
local function rescue(member)
  local slot, token = string.match(member, '^(%d+):(.*)$')
  local a = open(token)
  local record = lease_in(a, slot)
  if not record then return free_lost_slot(a, slot, member) end
  release(a, slot, record, record.id ~= '')
  if record.due > 0 then
    put_back(a, record, record.due, 0)
  elseif a.limits.max_deliveries > 0 and record.deliveries + 1 >= a.limits.max_deliveries then
    local value = redis.call('HGET', K.entries .. a.token, record.id)
    local score, _, _, start = decode_entry(value or '')
    if score then bury(a, record.id, score, 'max_deliveries', string.sub(value, start)) else a.damaged = true end
  else
    put_back(a, record, 0, record.deliveries + 1)
  end
  place(a)
  close(a)
end

-- Returns how many leases had expired and were ended, at most `most`.
local function rescue_some(most)
  -- What this call has taken must not be found under an older expiry time.
  save_leases()
  local expired = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, most)
  for _, member in ipairs(expired) do rescue(member) end
  return #expired
end
