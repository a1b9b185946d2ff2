-- One tenant queue. Needs lane.lua. Gives: open(token), open_soon(tokens), close(a), place(a), put(a), promote(a),
-- save_sets(), save_accounts() and wake, held_until(a), start_at(a), reweigh(a, settings), put_waiting, put_delayed,
-- encode_entry, decode_entry, recount(a), running(a), tear_down(a).
-- Invariant: after place() the queue stands in exactly one of: r ready, t timers, f full (a settle looks again),
-- p parked (paused for good), b busy (nothing waits, something runs), i idle. Its state says which.
-- Invariant: a call opens a queue once, and what it changes stands in `changed` until save_accounts(), which each
-- script that closes one calls before its end: one command for all queues of a call costs less than one for each.
-- Whoever reads ready, timers or idle calls save_sets() first.
-- Invariant: a key of a queue that is gone or cannot be read raises no error. open() takes what it can from the other
-- keys, and save_accounts() notes the queue in `damaged`, where the check finds it first.
local DEFAULT_LIMITS = { weight = 1, concurrency = 1, rate_limit = 0, rate_per = 0, strict = false, max_waiting = 0,
  max_deliveries = 0, queue_paused = 0, account_paused = 0 }
local UNLIMITED = 1e9
local PROMOTED_AT_ONCE = 100
-- A shorter backlog is nobody's burden and is not kept by length.
local HEAVY = 10
-- The most that an account's past may hold it back, µs.
local MOST_DEBT = 60000000
-- Lua passes a few thousand arguments at most; even, because many are pairs.
local PART = 1000

local function limits_of(token)
  local raw = lane.configured == 1 and redis.call('HGET', K.limits, token)
  local l
  if raw then
    local w, c, rl, rp, st, mw, md, qp, ap = string.match(raw,
      '^(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%-?%d+):(%-?%d+)$')
    l = { weight = tonumber(w), concurrency = tonumber(c), rate_limit = tonumber(rl), rate_per = tonumber(rp),
      strict = st == '1', max_waiting = tonumber(mw), max_deliveries = tonumber(md), queue_paused = tonumber(qp),
      account_paused = tonumber(ap) }
    if not w then l = DEFAULT_LIMITS end -- they cannot be read
  else
    l = DEFAULT_LIMITS
  end
  return l
end

-- The state is packed, because reading and writing it as fields of a hash cost more than all the rest of a settle.
-- The lease of slot 0 follows it, because most queues have no other slot; others stand in a hash. The layout stands in
-- keys.py too. It begins with its number, so that a state of another layout is known as one that cannot be read.
local LAYOUT = '2'
local STATE = '>c1c1ddddddddII'
local LEASE = '>dddBdIHc0Hc0'

-- A lease, in the order of LEASE. epoch: also the µs at which it began; charge: µs charged at the claim; rated: 1 when
-- a rate token was taken; due: ms of a recorded reschedule, or 0.
-- @fields record: epoch request charge rated due deliveries worker id
local function encode_lease(record)
  return struct.pack(LEASE, record.epoch, record.request, record.charge, record.rated, record.due,
    record.deliveries, #record.worker, record.worker, #record.id, record.id)
end

-- nil: it cannot be read.
local function decode_lease(raw, from)
  local readable, epoch, request, charge, rated, due, deliveries, worker, id, following =
    pcall(struct.unpack, LEASE, raw, from)
  if not readable or following ~= #raw + 1 then return nil end
  return { epoch, request, charge, rated, due, deliveries, worker, id }
end

-- A lease whose record was lost, but whose expiry time stands: its slot stays taken until then, because its worker may
-- still run the message. Nobody can extend or settle it, so its worker finds it lost.
local function lost_lease()
  return { now_us, 0, 0, 0, 0, 0, '', '' }
end

-- A tenant queue, as open() makes it.
-- @fields a: token limits concurrency held others count v estimate used_at stands stood rate_at hold due due_read spent
-- @fields a: heavy head_changed head_added at changed tell score grew let_go damaged recovered

-- The queues that this call has opened; the states that were read for those that it will open; those to be written.
local opened, read, changed = {}, {}, {}

-- Reads the states of queues that will be opened, all at once. Tokens stand at every `step`th place from `from` on, to
-- the end or `to`.
local function open_soon(list, from, step, to)
  local wanted, keys = {}, {}
  for i = from, to or #list, step do
    local token = list[i]
    if not opened[token] and read[token] == nil then
      read[token] = false
      wanted[#wanted + 1] = token
      keys[#keys + 1] = K.state .. token
    end
  end
  for first = 1, #keys, PART do
    local raws = redis.call('MGET', unpack(keys, first, math.min(first + PART - 1, #keys)))
    for i = 1, #raws do read[wanted[first + i - 1]] = raws[i] end
  end
end

-- The counts of a queue as its other keys have them.
local function recount(a)
  local count = redis.call('ZCARD', K.waiting .. a.token)
  lane.waiting = lane.waiting + count - a.count
  a.count = count
  a.others = redis.call('HLEN', K.slots .. a.token)
  local first = redis.call('ZRANGE', K.delayed .. a.token, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
  a.head_changed = true
  a.head_added = false
end

-- A queue without a state that can be read: a new one, or one whose state was lost. Of that one the rest is kept, and
-- it is placed anew by whoever closes it.
local function recover(a)
  local token = a.token
  local leased = redis.call('ZSCORE', K.leases, '0:' .. token)
  if not leased and redis.call('EXISTS', K.waiting .. token, K.delayed .. token, K.entries .. token,
    K.slots .. token) == 0 then return end
  a.count = redis.call('ZCARD', K.waiting .. token) -- the lane has counted them
  recount(a)
  if leased then a.held = lost_lease() end
  a.v = lane.v
  a.stands = 'n'
  a.damaged = true
  a.recovered = true
end

local function open(token)
  local known = opened[token]
  if known then return known end
  local raw = read[token]
  if raw == nil then raw = redis.call('GET', K.state .. token) end
  local stands, v, estimate, used_at, rate_at, hold, due, spent, heavy, others, count, start, held
  if raw then
    local readable, layout, s, v2, e, u, r, h, d, sp, he, o, c, st = pcall(struct.unpack, STATE, raw)
    readable = readable and layout == LAYOUT
    if readable and st <= #raw then
      held = decode_lease(raw, st)
      readable = held ~= nil
    end
    if readable then
      stands, v, estimate, used_at, rate_at, hold, due, spent, heavy, others, count = s, v2, e, u, r, h, d, sp, he, o, c
    end
  end
  local limits = limits_of(token)
  local a = {
    token,
    limits,
    -- Messages without an account are no tenant: no bound on how many run.
    token == '-' and UNLIMITED or limits.concurrency,
    held,                         -- the lease of slot 0, or nil
    others or 0,                  -- how many other slots are taken
    count or 0,                   -- how many entries wait
    v or 0,
    estimate or lane.mean,
    used_at or now,
    stands,                       -- nil: the queue has no state yet
    stands,                       -- `stood`: which of the lane's sets it is in now
    rate_at or 0,                 -- theoretical arrival time of the rate's bucket, ms
    hold or 0,                    -- strict ordering: nothing starts before, ms
    due or 0,                     -- when the first delayed entry is due, ms; 0 none
    due or 0,                     -- `due_read`: the same, as it was found
    spent or 0,                   -- µs used that the hour's account does not show yet
    heavy or 0,                   -- 1: it stands among the longest backlogs
    -- Of this call only: `head_changed`; `head_added`: since when the next entry waits, as text, where that is known;
    -- `at`: when it can start, ms; `changed`: it is to be written; `tell`: of an earlier time; `score`: in ready.
    false, false, false, false, false, false,
    false, false,                 -- `grew`: something was enqueued; `let_go`: the retry that held it was dropped
    false, false,                 -- `damaged`: its keys do not agree; `recovered`: its state was lost
  }
  if not stands then recover(a) end
  opened[token] = a
  return a
end

-- It is written by save_accounts().
local function close(a)
  if a.stands and not a.changed then
    a.changed = true
    changed[#changed + 1] = a
  end
end

-- How many messages of it run.
local function running(a)
  return a.held and a.others + 1 or a.others
end

-- score: rank and sequence; added: ms since which it waits; deliveries: leases of it that expired.
local function encode_entry(score, added, deliveries, message)
  return format('%d:%d:%d:', score, added, deliveries) .. message
end

-- Nothing is returned for a value that cannot be read.
local function decode_entry(value)
  local score, added, deliveries, start = string.match(value, '^(%d+):(%d+):(%d+):()')
  return tonumber(score), tonumber(added), tonumber(deliveries), start
end

-- `added`: since when it waits, ms, where the caller knows it.
local function put_waiting(a, id, score, added)
  local new = redis.call('ZADD', K.waiting .. a.token, whole(score), id)
  a.count = a.count + new
  lane.waiting = lane.waiting + new
  a.head_changed = true
  a.head_added = a.count == 1 and added and whole(added)
end

local function note_taken(a, gone)
  a.count = a.count - gone
  lane.waiting = lane.waiting - gone
  a.head_changed = true
  a.head_added = false
end

local function take_waiting(a, id)
  local gone = redis.call('ZREM', K.waiting .. a.token, id)
  note_taken(a, gone)
  return gone == 1
end

local function put_delayed(a, id, due)
  redis.call('ZADD', K.delayed .. a.token, whole(due), id)
  lane.delayed = lane.delayed + 1
  if a.due == 0 or due < a.due then a.due = due end
end

-- Moves what is due to the waiting ones; bounded, the rest follows at the next look.
local function promote(a)
  if a.due == 0 or a.due > now then return end
  local ids = redis.call('ZRANGEBYSCORE', K.delayed .. a.token, '-inf', now, 'LIMIT', 0, PROMOTED_AT_ONCE)
  for _, id in ipairs(ids) do
    local score, added = decode_entry(redis.call('HGET', K.entries .. a.token, id) or '')
    redis.call('ZREM', K.delayed .. a.token, id)
    lane.delayed = lane.delayed - 1
    if score then
      put_waiting(a, id, score, added)
    else
      a.damaged = true
    end
  end
  local first = redis.call('ZRANGE', K.delayed .. a.token, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
end

-- Until when its backoff (strict ordering) and its rate hold it, ms; 0: not.
local function held_until(a)
  local l, backoff, rate = a.limits, 0, 0
  if l.strict and a.hold > now then backoff = a.hold end
  if l.rate_limit > 0 then
    local interval = l.rate_per / l.rate_limit
    -- A changed rate must not leave a debt that the new one could not have made.
    if a.rate_at > now + l.rate_per then a.rate_at = now + l.rate_per end
    local allowed = math.ceil(a.rate_at - (l.rate_limit - 1) * interval)
    if allowed > now then rate = allowed end
  end
  return backoff, rate
end

-- When a start of this account is allowed: -1 never (paused for good), 0 now, otherwise ms.
local function start_at(a)
  local l = a.limits
  if l == DEFAULT_LIMITS then return 0 end
  if l.queue_paused == -1 or l.account_paused == -1 then return -1 end
  local at = math.max(l.queue_paused, l.account_paused, held_until(a))
  return at > now and at or 0
end

-- The limits have changed: what it owes was counted at the weight that it had before (`settings`: as they were kept).
local function reweigh(a, settings)
  local weight = tonumber(string.match(settings, '^%d+') or 1)
  if a.v > lane.v then a.v = lane.v + (a.v - lane.v) * weight / a.limits.weight end
end

local function place(a)
  promote(a)
  local stands, at
  if a.count == 0 then
    if a.due > 0 then stands, at = 't', a.due
    elseif running(a) > 0 then stands = 'b'
    else stands = 'i' end
  elseif running(a) >= a.concurrency then
    stands = 'f'
  else
    at = start_at(a)
    if at == -1 then stands = 'p' elseif at > 0 then stands = 't' else stands = 'r' end
  end
  if stands == 'r' and a.stands ~= 'r' then
    -- Nobody saves credit, and equals come in the order in which they became ready.
    if a.v < lane.v then a.v = lane.v end
    lane.v = lane.v + 1
  end
  a.stands, a.at = stands, at
  return stands
end

-- Whether this call made something that a waiting consumer must hear of.
local wake = false

-- place() and close(), noting whether the bell must ring: something can start, or an earlier time is known.
local function put(a)
  local stands = place(a)
  close(a)
  if stands == 'r' then wake = true elseif stands == 't' then a.tell = true end
end

-- Adds arguments to the list that stands under a key, which is told by what follows the root. `second`: nil where the
-- command takes single ones.
local function add_to(lists, key, first, second)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  local n = #list
  list[n + 1], list[n + 2] = first, second
end

-- The same command for each key, with all of its arguments. `root`: what the keys begin with, where that is not R.
local function call_each(command, lists, root)
  for name, list in pairs(lists) do
    local key = (root or R) .. name
    for i = 1, #list, PART do redis.call(command, key, unpack(list, i, math.min(i + PART - 1, #list))) end
  end
end

-- Brings ready, timers, idle and names to where the changed queues stand.
local function save_sets()
  local come, gone, timed = {}, {}, false
  for _, a in ipairs(changed) do
    local stands, stood, token = a.stands, a.stood, a.token
    if not stood then add_to(come, S.names, '0', token) end
    if a.recovered then
      for _, set in ipairs({ S.ready, S.timers, S.idle }) do add_to(gone, set, token) end
      a.recovered = false
    end
    if stands ~= stood then
      local left = stood == 'r' and S.ready or stood == 't' and S.timers or stood == 'i' and S.idle
      if left then add_to(gone, left, token) end
    end
    if stands == 'r' then
      if stood ~= 'r' or a.score ~= a.v then add_to(come, S.ready, whole(a.v), token) end
      a.score = a.v
    elseif stands == 't' then
      if a.at then -- it was placed in this call
        add_to(come, S.timers, whole(a.at), token)
        timed = true
      end
    elseif stands == 'i' and stood ~= 'i' then
      add_to(come, S.idle, whole(now), token)
    end
    a.stood = stands
  end
  call_each('ZREM', gone)
  call_each('ZADD', come)
  if timed and not wake then
    local a = opened[redis.call('ZRANGE', K.timers, 0, 0)[1]]
    wake = a ~= nil and a.tell
  end
end

-- Since when the queue's next entry waits, as text; nil: none waits.
local function arrival(a)
  if a.head_added then return a.head_added end
  local head = redis.call('ZRANGE', K.waiting .. a.token, 0, 0)[1]
  local value = head and redis.call('HGET', K.entries .. a.token, head)
  return value and string.match(value, '^%d+:(%d+):')
end

local function encode_state(a)
  local record = a.held
  if not record then
    return struct.pack(STATE, LAYOUT, a.stands, a.v, a.estimate, a.used_at, a.rate_at, a.hold, a.due, a.spent, a.heavy,
      a.others, a.count)
  end
  return struct.pack(STATE .. LEASE, LAYOUT, a.stands, a.v, a.estimate, a.used_at, a.rate_at, a.hold, a.due, a.spent,
    a.heavy, a.others, a.count, record.epoch, record.request, record.charge, record.rated, record.due,
    record.deliveries, #record.worker, record.worker, #record.id, record.id)
end

-- Writes what the call has changed: where the queues stand, the arrivals of their next messages (for "oldest wait"),
-- the long backlogs, the states.
local function save_accounts()
  save_sets()
  local come, gone, states = {}, {}, {}
  for i, a in ipairs(changed) do
    if a.head_changed then
      if a.count >= HEAVY then
        add_to(come, S.backlog, whole(a.count), a.token)
        a.heavy = 1
      elseif a.heavy == 1 then
        add_to(gone, S.backlog, a.token)
        a.heavy = 0
      end
      local added = a.count > 0 and arrival(a)
      if added then
        add_to(come, S.since, added, a.token)
      elseif a.count == 0 then
        add_to(gone, S.since, a.token)
      end
      a.head_changed = false
    end
    if a.damaged then
      add_to(come, S.damaged, whole(now), a.token)
      a.damaged = false
    end
    states[2 * i - 1] = K.state .. a.token
    states[2 * i] = encode_state(a)
    a.changed = false
  end
  changed = {}
  call_each('ZREM', gone)
  call_each('ZADD', come)
  for i = 1, #states, PART do redis.call('MSET', unpack(states, i, math.min(i + PART - 1, #states))) end
end

-- Removes all state of a queue that holds nothing; its settings stay. False when it holds something.
local function tear_down(a)
  local token = a.token
  if redis.call('EXISTS', K.waiting .. token, K.delayed .. token, K.entries .. token, K.slots .. token) > 0 then
    return false
  end
  redis.call('DEL', K.state .. a.token)
  opened[a.token], read[a.token] = nil, false
  for _, key in ipairs({ K.names, K.idle, K.ready, K.timers, K.since, K.backlog, K.damaged }) do
    redis.call('ZREM', key, a.token)
  end
  local hour = floor(now / 3600000)
  redis.call('ZREM', K.spent .. hour, a.token)
  redis.call('ZREM', K.spent .. (hour - 1), a.token)
  return true
end
