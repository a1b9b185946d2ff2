-- One tenant queue. Needs lane.lua. Gives: open(token), close(a), place(a), put(a) and wake, promote(a),
-- start_at(a), put_waiting, put_delayed, encode_entry, decode_entry, running(a), tear_down(a).
-- Invariant: after place() the queue stands in exactly one of: r ready, t timers, f full (a settle looks again),
-- p parked (paused for good), b busy (nothing waits, something runs), i idle. Its state says which.
local DEFAULT_LIMITS = { weight = 1, concurrency = 1, rate_limit = 0, rate_per = 0, strict = false, max_waiting = 0,
  max_deliveries = 0, queue_paused = 0, account_paused = 0 }
local UNLIMITED = 1e9
local PROMOTED_AT_ONCE = 100
-- A shorter backlog is nobody's burden and is not kept by length.
local HEAVY = 10
-- The most that an account's past may hold it back, µs.
local MOST_DEBT = 60000000

local function limits_of(token)
  local raw = lane.configured == 1 and redis.call('HGET', K.limits, token)
  local l
  if raw then
    local w, c, rl, rp, st, mw, md, qp, ap = string.match(raw,
      '^(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%-?%d+):(%-?%d+)$')
    l = { weight = tonumber(w), concurrency = tonumber(c), rate_limit = tonumber(rl), rate_per = tonumber(rp),
      strict = st == '1', max_waiting = tonumber(mw), max_deliveries = tonumber(md), queue_paused = tonumber(qp),
      account_paused = tonumber(ap) }
  else
    l = DEFAULT_LIMITS
  end
  return l
end

-- The state is packed, because reading and writing it as fields of a hash cost more than all the rest of a settle.
-- The lease of slot 0 follows it, because most queues have no other slot; others stand in a hash. The layout stands in
-- keys.py too.
local STATE = '>c1ddddddddI'
local LEASE = '>dddBdIHc0'

-- epoch: also the µs at which it began; charge: µs charged at the claim; rated: 1 when a rate token was taken; due: ms
-- of a recorded reschedule, or 0.
local function encode_lease(r)
  return struct.pack(LEASE, r.epoch, r.request, r.charge, r.rated, r.due, r.deliveries, #r.worker, r.worker) .. r.id
end

local function decode_lease(raw, from)
  local epoch, request, charge, rated, due, deliveries, worker, start = struct.unpack(LEASE, raw, from)
  return { epoch = epoch, worker = worker, request = request, charge = charge, rated = rated, due = due,
    deliveries = deliveries, id = string.sub(raw, start) }
end

local function open(token)
  local state = K.state .. token
  local stands, v, estimate, used_at, rate_at, hold, due, spent, heavy, others, start, held
  local raw = redis.call('GET', state)
  if raw then
    stands, v, estimate, used_at, rate_at, hold, due, spent, heavy, others, start = struct.unpack(STATE, raw)
    if start <= #raw then held = decode_lease(raw, start) end
  end
  local limits = limits_of(token)
  return {
    token = token,
    limits = limits,
    -- Messages without an account are no tenant: no bound on how many run.
    concurrency = token == '-' and UNLIMITED or limits.concurrency,
    state = state, waiting = K.waiting .. token, delayed = K.delayed .. token,
    entries = K.entries .. token,
    held = held,                         -- the lease of slot 0, or nil
    others = others or 0,                -- how many other slots are taken
    v = v or 0,
    estimate = estimate or lane.mean,
    used_at = used_at or now,
    stands = stands,                     -- nil: the queue has no state yet
    rate_at = rate_at or 0,              -- theoretical arrival time of the rate's bucket, ms
    hold = hold or 0,                    -- strict ordering: nothing starts before, ms
    due = due or 0,                      -- when the first delayed entry is due, ms; 0 none
    due_read = due or 0,                 -- the same, as it was found
    spent = spent or 0,                  -- µs used that the hour's account does not show yet
    heavy = heavy or 0,                  -- 1: it stands among the longest backlogs
  }
end

local function close(a)
  if not a.stands then return end
  local packed = struct.pack(STATE, a.stands, a.v, a.estimate, a.used_at, a.rate_at, a.hold, a.due, a.spent, a.heavy,
    a.others)
  redis.call('SET', a.state, a.held and packed .. encode_lease(a.held) or packed)
end

-- How many messages of it run.
local function running(a)
  return a.held and a.others + 1 or a.others
end

-- score: rank and sequence; added: ms since which it waits; deliveries: leases of it that expired.
local function encode_entry(score, added, deliveries, message)
  return format('%d:%d:%d:', score, added, deliveries) .. message
end

local function decode_entry(value)
  local score, added, deliveries, start = string.match(value, '^(%d+):(%d+):(%d+):()')
  return tonumber(score), tonumber(added), tonumber(deliveries), start
end

-- Keeps the arrival of the next message, for "oldest wait", and the length of the backlog. `a.next_id`: the head,
-- where it is known already.
local function mark_head(a, count)
  if count >= HEAVY then
    redis.call('ZADD', K.backlog, whole(count), a.token)
    a.heavy = 1
  elseif a.heavy == 1 then
    redis.call('ZREM', K.backlog, a.token)
    a.heavy = 0
  end
  if count == 0 then
    redis.call('ZREM', K.since, a.token)
    return
  end
  local head = a.next_id or redis.call('ZRANGE', a.waiting, 0, 0)[1]
  local value = redis.call('HGET', a.entries, head)
  if value then
    redis.call('ZADD', K.since, string.match(value, '^%d+:(%d+):'), a.token)
  end
end

local function put_waiting(a, id, score)
  redis.call('ZADD', a.waiting, whole(score), id)
  lane.waiting = lane.waiting + 1
  a.head_changed = true
  a.next_id = nil
end

local function put_delayed(a, id, due)
  redis.call('ZADD', a.delayed, whole(due), id)
  lane.delayed = lane.delayed + 1
  if a.due == 0 or due < a.due then a.due = due end
end

-- Moves what is due to the waiting ones; bounded, the rest follows at the next look.
local function promote(a)
  if a.due == 0 or a.due > now then return end
  local ids = redis.call('ZRANGEBYSCORE', a.delayed, '-inf', now, 'LIMIT', 0, PROMOTED_AT_ONCE)
  for _, id in ipairs(ids) do
    local value = redis.call('HGET', a.entries, id)
    redis.call('ZREM', a.delayed, id)
    lane.delayed = lane.delayed - 1
    if value then
      put_waiting(a, id, (decode_entry(value)))
    end
  end
  local first = redis.call('ZRANGE', a.delayed, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
end

-- When a start of this account is allowed: -1 never (paused for good), 0 now, otherwise ms; and why not.
local function start_at(a)
  local l = a.limits
  if l.queue_paused == -1 then return -1, 'queue_paused' end
  if l.account_paused == -1 then return -1, 'account_paused' end
  local at, reason = 0, nil
  if l.queue_paused > now then at, reason = l.queue_paused, 'queue_paused' end
  if l.account_paused > now and l.account_paused > at then at, reason = l.account_paused, 'account_paused' end
  if l.strict and a.hold > now and a.hold > at then at, reason = a.hold, 'retry_backoff' end
  if l.rate_limit > 0 then
    local interval = l.rate_per / l.rate_limit
    -- A changed rate must not leave a debt that the new one could not have made.
    if a.rate_at > now + l.rate_per then a.rate_at = now + l.rate_per end
    local allowed = math.ceil(a.rate_at - (l.rate_limit - 1) * interval)
    if allowed > now and allowed > at then at, reason = allowed, 'rate_limited' end
  end
  return at, reason
end

local function place(a)
  promote(a)
  local count = redis.call('ZCARD', a.waiting)
  local stands, at
  if count == 0 then
    if a.due > 0 then stands, at = 't', a.due
    elseif running(a) > 0 then stands = 'b'
    else stands = 'i' end
  elseif running(a) >= a.concurrency then
    stands = 'f'
  else
    at = start_at(a)
    if at == -1 then stands = 'p' elseif at > 0 then stands = 't' else stands = 'r' end
  end
  local before = a.stands
  if not before then redis.call('ZADD', K.names, 0, a.token) end
  if before == 'r' and stands ~= 'r' and not a.popped then redis.call('ZREM', K.ready, a.token) end
  if before == 't' and stands ~= 't' then redis.call('ZREM', K.timers, a.token) end
  if before == 'i' and stands ~= 'i' then redis.call('ZREM', K.idle, a.token) end
  if stands == 'r' then
    if before ~= 'r' then
      -- Nobody saves credit, and equals come in the order in which they became ready.
      if a.v < lane.v then a.v = lane.v end
      lane.v = lane.v + 1
    end
    redis.call('ZADD', K.ready, whole(a.v), a.token)
  elseif stands == 't' then
    redis.call('ZADD', K.timers, whole(at), a.token)
  elseif stands == 'i' and before ~= 'i' then
    redis.call('ZADD', K.idle, whole(now), a.token)
  end
  if a.head_changed then
    mark_head(a, count)
    a.head_changed = false
  end
  a.stands = stands
  a.popped = false
  return stands, at
end

-- Whether this call made something that a waiting consumer must hear of.
local wake = false

-- place() and close(), noting whether the bell must ring: something can start, or an earlier time is known.
local function put(a)
  local stands = place(a)
  close(a)
  if stands == 'r' then
    wake = true
  elseif stands == 't' and redis.call('ZRANGE', K.timers, 0, 0)[1] == a.token then
    wake = true
  end
end

-- Removes all state of a queue that holds nothing; its settings stay. False when it holds something.
local function tear_down(a)
  if redis.call('EXISTS', a.waiting, a.delayed, a.entries, K.slots .. a.token) > 0 then return false end
  redis.call('DEL', a.state)
  for _, key in ipairs({ K.names, K.idle, K.ready, K.timers, K.since, K.backlog }) do
    redis.call('ZREM', key, a.token)
  end
  local hour = floor(now / 3600000)
  redis.call('ZREM', K.spent .. hour, a.token)
  redis.call('ZREM', K.spent .. (hour - 1), a.token)
  return true
end
