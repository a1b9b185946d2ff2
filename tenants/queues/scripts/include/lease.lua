-- Leases: they are taken with a slot, found, ended, and expire.
-- Gives: start_first(queue, ...), slots_of(queue), lease_in(queue, slot), may_be_leased(queue, id), keep_lease(queue,
-- slot, lease), drop_lease(queue, slot), find_lease(token, slot, epoch), end_lease, requeue, bury, rescue(member),
-- rescue_some(most), free_lost_slot, add_claim.
-- Invariant: a slot is taken exactly while its lease is in the queue's state (slot 0) or in its slots hash; the lane's
-- zset of expiry times is written by the same script.
-- @include queue
local WORKER_TTL = 600000
local BURIED_TTL = 604800000
local LEAST_CHARGE = 100
local SPENT_STEP = 10000 -- µs

-- The taken slots, as text.
local function slots_of(queue)
  local slots = queue.other_slots > 0 and redis.call('HKEYS', K.slots .. queue.token) or {}
  if queue.lease then slots[#slots + 1] = '0' end
  return slots
end

local function lease_in(queue, slot)
  if slot == '0' then return queue.lease end
  local raw = redis.call('HGET', K.slots .. queue.token, slot)
  return raw and decode_lease(raw, 1) or nil
end

-- Whether a lease of the queue has the entry, or can have it because its record was lost.
local function may_be_leased(queue, id)
  for _, slot in ipairs(slots_of(queue)) do
    local lease = lease_in(queue, slot)
    if not lease or lease.id == '' or lease.id == id then return true end
  end
  return false
end

local function keep_lease(queue, slot, lease)
  if slot == '0' then
    queue.lease = lease
  else
    queue.other_slots = queue.other_slots + redis.call('HSET', K.slots .. queue.token, slot, encode_lease(lease))
  end
end

local function drop_lease(queue, slot)
  if slot == '0' then
    queue.lease = nil
  else
    queue.other_slots = queue.other_slots - redis.call('HDEL', K.slots .. queue.token, slot)
  end
end

local function free_slot(queue)
  if queue.concurrency == 1 then return '0' end
  if queue.concurrency == UNLIMITED then
    lane.slot = math.max(lane.slot + 1, now)
    return whole(lane.slot)
  end
  local used = {}
  for _, slot in ipairs(slots_of(queue)) do used[slot] = true end
  for slot = 0, queue.concurrency - 1 do
    if not used[tostring(slot)] then return tostring(slot) end
  end
end

-- Adds a claimed message to the answer for the worker.
local CLAIM_FIELDS = 5
local function add_claim(claimed, token, slot, epoch, id, value)
  local n = #claimed
  claimed[n + 1], claimed[n + 2], claimed[n + 3], claimed[n + 4], claimed[n + 5] = token, slot, epoch, id, value
end

-- Removes the first waiting entry from the order: its id, and its stored value if there is one.
local function take_first(queue)
  local waiting, entries = K.waiting .. queue.token, K.entries .. queue.token
  if queue.waiting == 1 then
    local id = redis.call('ZPOPMIN', waiting)[1]
    if not id then return nil end
    count_taken(queue, 1)
    return id, redis.call('HGET', entries, id)
  end
  local heads = redis.call('ZRANGE', waiting, 0, 1)
  local id, following = heads[1], heads[2]
  if not id then return nil end
  take_waiting(queue, id)
  if not following then
    recount(queue) -- the count was too high
    return id, redis.call('HGET', entries, id)
  end
  local values = redis.call('HMGET', entries, id, following)
  if values[2] then queue.head_added = string.match(values[2], '^%d+:(%d+):') end
  return id, values[1]
end

-- Starts the first waiting entry of a queue that was removed from ready, and adds it to `claimed`.
local function start_first(queue, start, worker, request, lease_ms, claimed)
  lane.vtime = math.max(lane.vtime, start)
  promote(queue)
  local slot = start_at(queue) == 0 and free_slot(queue)
  local id, value, added, deliveries
  if slot then
    id, value = take_first(queue)
    added, deliveries = string.match(value or '', '^%d+:(%d+):(%d+):')
  end
  if not added then
    if slot then -- nothing waits, or its message cannot be read
      recount(queue)
      queue.damaged = true
    end
    place(queue)
    mark_changed(queue)
    return
  end
  lane.starts = lane.starts + 1
  lane.dwelt = lane.dwelt + math.max(0, now - added)
  lane.epoch = math.max(lane.epoch + 1, now_us)
  local rated = 0
  if queue.limits.rate_limit > 0 then
    rated = 1
    queue.rate_at = math.max(queue.rate_at, now) + queue.limits.rate_per / queue.limits.rate_limit
  end
  local charge = math.max(queue.estimate, LEAST_CHARGE)
  queue.vtime = start + charge / queue.limits.weight
  queue.used_at = now
  local lease = { epoch = lane.epoch, request = request, charge = charge, rated = rated, due = 0,
    deliveries = tonumber(deliveries), worker = worker, id = id }
  keep_lease(queue, slot, lease)
  add_to(expiries, K.leases, whole(now + lease_ms), slot .. ':' .. queue.token)
  place(queue)
  mark_changed(queue)
  add_claim(claimed, queue.token, slot, whole(lane.epoch), id, value)
end

-- The lease and its queue; nil if it is not this lease any more.
local function find_lease(token, slot, epoch)
  local queue = open(token)
  local lease = lease_in(queue, slot)
  if not lease or lease.epoch ~= tonumber(epoch) then return nil end
  return lease, queue
end

-- Ends the lease: the slot is free, and the account is charged what it used instead of the estimate; nothing if the
-- message never `started`.
local function end_lease(queue, slot, lease, started)
  drop_lease(queue, slot)
  add_to(ended, K.leases, slot .. ':' .. queue.token)
  if not started then
    queue.vtime = math.max(0, queue.vtime - lease.charge / queue.limits.weight)
    if lease.rated == 1 and queue.limits.rate_limit > 0 then
      queue.rate_at = queue.rate_at - queue.limits.rate_per / queue.limits.rate_limit
    end
    return
  end
  local used = math.max(0, now_us - lease.epoch)
  local vtime = queue.vtime + (math.max(used, LEAST_CHARGE) - lease.charge) / queue.limits.weight
  queue.vtime = math.max(0, math.min(vtime, lane.vtime + MOST_DEBT))
  queue.estimate = queue.estimate + (used - queue.estimate) * 0.2
  queue.used_at = now
  lane.mean = lane.mean + (used - lane.mean) * 0.05
  lane.worked = lane.worked + used
  -- The hour's total is written in steps, not for each short message.
  queue.spent = queue.spent + used
  if queue.spent >= SPENT_STEP then
    local hour = K.spent .. floor(now / 3600000)
    if tonumber(redis.call('ZINCRBY', hour, whole(queue.spent), queue.token)) == queue.spent then
      redis.call('PEXPIRE', hour, 7500000)
    end
    queue.spent = 0
  end
end

-- Buries an entry with its stored value, or only the value if that cannot be read.
local function bury(queue, id, reason, value)
  local score, _, _, start = decode_entry(value)
  local message = score and string.sub(value, start) or value
  local buried_id = whole(math.max(lane.epoch + 1, now_us))
  lane.epoch = tonumber(buried_id)
  redis.call('HDEL', K.entries .. queue.token, id)
  redis.call('ZADD', K.buried, now, buried_id)
  local sizes = cjson.encode({ #queue.token, #id, #reason })
  redis.call('HSET', K.buried_messages, buried_id, sizes .. '\n' .. queue.token .. id .. reason .. message)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', K.buried, '-inf', now - BURIED_TTL, 'LIMIT', 0, 10)) do
    redis.call('ZREM', K.buried, old)
    redis.call('HDEL', K.buried_messages, old)
  end
end

-- Buries the entry of an ended lease.
local function bury_leased(queue, lease, reason)
  local value = redis.call('HGET', K.entries .. queue.token, lease.id)
  if decode_entry(value) then bury(queue, lease.id, reason, value) else queue.damaged = true end
end

-- Puts the entry of an ended lease back into its queue, at its old place. `due` 0: it waits at once.
local function requeue(queue, lease, due, deliveries, message)
  local value = redis.call('HGET', K.entries .. queue.token, lease.id)
  local score, added, _, start = decode_entry(value)
  if not score then
    queue.damaged = true
    return
  end
  if due <= now then due = 0 end
  local since = due > 0 and due or (message and now or added)
  if due > 0 and queue.limits.strict then
    queue.hold = math.max(queue.hold, due)
    due = 0
  end
  redis.call('HSET', K.entries .. queue.token, lease.id,
    encode_entry(score, since, deliveries, message or string.sub(value, start)))
  if due > 0 then put_delayed(queue, lease.id, due) else put_waiting(queue, lease.id, score, since) end
end

-- Frees the slot of an expiry time whose lease is gone or cannot be read.
local function free_lost_slot(queue, slot, member)
  redis.call('ZREM', K.leases, member)
  redis.call('HDEL', K.slots .. queue.token, slot)
  recount(queue)
  if queue.standing then
    queue.damaged = true
    place(queue)
    mark_changed(queue)
  end
end

-- Ends an expired lease: the entry is rescheduled as recorded, or waits again with one more delivery.
local function rescue(member)
  local slot, token = string.match(member, '^(%d+):(.*)$')
  local queue = open(token)
  local lease = lease_in(queue, slot)
  if not lease then return free_lost_slot(queue, slot, member) end
  end_lease(queue, slot, lease, lease.id ~= '')
  if lease.due > 0 then
    requeue(queue, lease, lease.due, 0)
  elseif queue.limits.max_deliveries > 0 and lease.deliveries + 1 >= queue.limits.max_deliveries then
    bury_leased(queue, lease, 'max_deliveries')
  else
    requeue(queue, lease, 0, lease.deliveries + 1)
  end
  place(queue)
  mark_changed(queue)
end

-- Returns how many leases had expired and were ended, at most `most`.
local function rescue_some(most)
  -- Leases that this script has taken must not be found with an older expiry time.
  save_leases()
  local expired = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, most)
  for _, member in ipairs(expired) do rescue(member) end
  return #expired
end
