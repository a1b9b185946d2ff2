-- Tenant queues: their state, limits and entries, and where each one stands.
-- Gives: open(token) → queue, read_states(tokens, from, step, to), running(queue), place(queue), update(queue),
-- mark_changed(queue), promote(queue), held_until(queue), start_at(queue), put_waiting, take_waiting, put_delayed,
-- take_delayed, first_due(queue), encode_entry, decode_entry, recount(queue), delete_queue(queue), save_leases(),
-- save_sets(), save().
-- Invariant: after place() the queue has exactly one standing: r ready, t timers (placed again at a time), f full (a
-- settle places it again), p parked (paused for good), b busy (nothing waits, something runs), i idle. The sets ready,
-- timers and idle have exactly the queues with that standing.
-- Invariant: a script opens a queue once, and what it changes is written by save(), which every script that changes
-- queues calls last: one command for all queues of a call costs less than one for each. A script that reads ready,
-- timers or idle calls save_sets() first, and one that reads leases calls save_leases() first.
-- Invariant: a key that is gone or cannot be read raises no error. open() takes what the other keys have, and save()
-- adds the queue to `damaged`, where the check finds it first.
-- @include lane
local DEFAULT_SETTINGS = '1:1:0:0:0:0:0:0:0'
local DEFAULT_LIMITS = { weight = 1, concurrency = 1, rate_limit = 0, rate_per = 0, strict = false, max_waiting = 0,
  max_deliveries = 0, queue_paused = 0, account_paused = 0 }
local UNLIMITED = 1e9
local PROMOTED_AT_ONCE = 100
-- Shorter backlogs are not kept by length.
local HEAVY = 10
-- The most by which an account's past use can delay it, µs.
local MOST_DEBT = 60000000
-- Arguments of one command, of which Lua takes a few thousand; even, because many are pairs.
local PART = 1000

local function limits_of(token)
  local raw = lane.configured == 1 and redis.call('HGET', K.limits, token)
  if not raw then return DEFAULT_LIMITS end
  local w, c, rl, rp, st, mw, md, qp, ap = string.match(raw,
    '^(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%-?%d+):(%-?%d+)$')
  if not w then return DEFAULT_LIMITS end -- they cannot be read
  return { weight = tonumber(w), concurrency = tonumber(c), rate_limit = tonumber(rl), rate_per = tonumber(rp),
    strict = st == '1', max_waiting = tonumber(mw), max_deliveries = tonumber(md), queue_paused = tonumber(qp),
    account_paused = tonumber(ap) }
end

-- The state of a queue is one packed string: as fields of a hash it cost the server half as much again for each message
-- (docs/decisions/packed-queue-state.md). It begins with the number of its layout, which keys.py has too, so that a
-- state of another layout counts as one that cannot be read. The lease of slot 0 follows it, because most queues have
-- no other slot; other slots are in a hash. The fields, in this order:
--   standing     see place()
--   vtime        virtual start of its next message, µs of service at weight 1
--   estimate     moving average of the µs that its messages take
--   used_at      ms of its last use
--   rate_at      theoretical arrival time of the rate limit (GCRA), ms
--   hold         strict ordering: nothing starts before, ms
--   due          when the first delayed entry is due, ms; 0 none
--   spent        µs used that the current hour's total does not have yet
--   heavy        1: it is in the set of long backlogs
--   other_slots  number of taken slots other than 0
--   waiting      number of waiting entries
local LAYOUT = '2'
local STATE = '>c1c1ddddddddII'
local LEASE = '>dddBdIHc0Hc0'

-- A lease. epoch: also the µs at which it began; charge: µs charged at the claim; rated: 1 if it used the rate limit;
-- due: ms of a recorded reschedule, or 0.
local function encode_lease(lease)
  return struct.pack(LEASE, lease.epoch, lease.request, lease.charge, lease.rated, lease.due, lease.deliveries,
    #lease.worker, lease.worker, #lease.id, lease.id)
end

-- nil: it cannot be read.
local function decode_lease(raw, from)
  local readable, epoch, request, charge, rated, due, deliveries, worker, id, following =
    pcall(struct.unpack, LEASE, raw, from)
  if not readable or following ~= #raw + 1 then return nil end
  return { epoch = epoch, request = request, charge = charge, rated = rated, due = due, deliveries = deliveries,
    worker = worker, id = id }
end

-- A lease whose record was lost while its expiry time is there. Its slot stays taken until then, because its worker may
-- still run the message. It matches no epoch, so its worker finds it lost.
local function lost_lease()
  return { epoch = now_us, request = 0, charge = 0, rated = 0, due = 0, deliveries = 0, worker = '', id = '' }
end

local function encode_state(queue)
  local state = struct.pack(STATE, LAYOUT, queue.standing, queue.vtime, queue.estimate, queue.used_at, queue.rate_at,
    queue.hold, queue.due, queue.spent, queue.heavy, queue.other_slots, queue.waiting)
  return queue.lease and state .. encode_lease(queue.lease) or state
end

-- The queue from its stored state; nil if it cannot be read.
local function decode_state(raw)
  local readable, layout, standing, vtime, estimate, used_at, rate_at, hold, due, spent, heavy, other_slots, waiting,
    following = pcall(struct.unpack, STATE, raw)
  if not readable or layout ~= LAYOUT then return nil end
  local lease
  if following <= #raw then
    lease = decode_lease(raw, following)
    if not lease then return nil end
  end
  return { standing = standing, vtime = vtime, estimate = estimate, used_at = used_at, rate_at = rate_at, hold = hold,
    due = due, spent = spent, heavy = heavy, other_slots = other_slots, waiting = waiting, lease = lease,
    listed = standing, due_stored = due, token = false, limits = false, concurrency = false, changed = false,
    head_changed = false, at = false, score = false }
end

-- The queues that this script has opened, by token; states that were read ahead; opened queues that must be written.
local opened, read, changed = {}, {}, {}

-- Reads the states of queues that will be opened, in one command. The tokens are at every `step`th place of the list
-- from `from` on, to `to` or the end.
local function read_states(list, from, step, to)
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

-- When the first delayed entry is due, ms; 0 none.
local function first_due(queue)
  return tonumber(redis.call('ZRANGE', K.delayed .. queue.token, 0, 0, 'WITHSCORES')[2]) or 0
end

-- Takes the counts of a queue from its other keys.
local function recount(queue)
  local waiting = redis.call('ZCARD', K.waiting .. queue.token)
  lane.waiting = lane.waiting + waiting - queue.waiting
  queue.waiting = waiting
  queue.other_slots = redis.call('HLEN', K.slots .. queue.token)
  queue.due = first_due(queue)
  queue.head_changed, queue.head_added = true, false
end

-- A queue without a state that can be read: a new one, or one whose state was lost. That one gets a state from its
-- other keys.
local function recover(queue)
  local token = queue.token
  local leased = redis.call('ZSCORE', K.leases, '0:' .. token)
  if not leased and redis.call('EXISTS', K.waiting .. token, K.delayed .. token, K.entries .. token,
    K.slots .. token) == 0 then return end
  queue.waiting = redis.call('ZCARD', K.waiting .. token) -- the lane has counted them
  recount(queue)
  if leased then queue.lease = lost_lease() end
  queue.vtime, queue.standing = lane.vtime, 'n'
  queue.damaged, queue.recovered = true, true
end

-- The queue: its stored fields, its limits, and for this script only: `listed`, the standing by which it is in one of
-- the lane's sets; `at`, when it can start; `changed`; `head_changed`, `head_added`: the next entry is another one, and
-- since when it waits, as text; `damaged`: its keys disagree; `recovered`: its state was lost. No `standing`: it has no
-- state yet.
local function open(token)
  if opened[token] then return opened[token] end
  local raw = read[token]
  if raw == nil then raw = redis.call('GET', K.state .. token) end
  local queue = raw and decode_state(raw)
  local is_known = queue
  queue = queue or { vtime = 0, estimate = lane.mean, used_at = now, rate_at = 0, hold = 0, due = 0, due_stored = 0,
    spent = 0, heavy = 0, other_slots = 0, waiting = 0 }
  queue.token, queue.limits = token, limits_of(token)
  -- Messages without an account belong to no tenant: any number may run.
  queue.concurrency = token == '-' and UNLIMITED or queue.limits.concurrency
  if not is_known then recover(queue) end
  opened[token] = queue
  return queue
end

-- save() will write the queue.
local function mark_changed(queue)
  if queue.standing and not queue.changed then
    queue.changed = true
    changed[#changed + 1] = queue
  end
end

-- How many of its messages run.
local function running(queue)
  return queue.lease and queue.other_slots + 1 or queue.other_slots
end

-- score: rank and sequence; added: ms since which it waits; deliveries: leases of it that expired.
local function encode_entry(score, added, deliveries, message)
  return format('%d:%d:%d:', score, added, deliveries) .. message
end

-- Score, added, deliveries, and where the message starts; nothing for a value that cannot be read.
local function decode_entry(value)
  local score, added, deliveries, start = string.match(value or '', '^(%d+):(%d+):(%d+):()')
  return tonumber(score), tonumber(added), tonumber(deliveries), start
end

-- `added`: since when it waits, ms, if the caller knows it.
local function put_waiting(queue, id, score, added)
  local new = redis.call('ZADD', K.waiting .. queue.token, whole(score), id)
  queue.waiting = queue.waiting + new
  lane.waiting = lane.waiting + new
  queue.head_changed = true
  queue.head_added = queue.waiting == 1 and added and whole(added)
end

local function count_taken(queue, number)
  queue.waiting = queue.waiting - number
  lane.waiting = lane.waiting - number
  queue.head_changed, queue.head_added = true, false
end

local function take_waiting(queue, id)
  local number = redis.call('ZREM', K.waiting .. queue.token, id)
  count_taken(queue, number)
  return number == 1
end

local function put_delayed(queue, id, due)
  redis.call('ZADD', K.delayed .. queue.token, whole(due), id)
  lane.delayed = lane.delayed + 1
  if queue.due == 0 or due < queue.due then queue.due = due end
end

local function take_delayed(queue, id)
  local number = redis.call('ZREM', K.delayed .. queue.token, id)
  lane.delayed = lane.delayed - number
  return number == 1
end

-- Moves due entries from delayed to waiting; a bounded number, the rest at the next poll.
local function promote(queue)
  if queue.due == 0 or queue.due > now then return end
  local ids = redis.call('ZRANGEBYSCORE', K.delayed .. queue.token, '-inf', now, 'LIMIT', 0, PROMOTED_AT_ONCE)
  for _, id in ipairs(ids) do
    local score, added = decode_entry(redis.call('HGET', K.entries .. queue.token, id))
    take_delayed(queue, id)
    if score then put_waiting(queue, id, score, added) else queue.damaged = true end
  end
  queue.due = first_due(queue)
end

-- Until when a backoff (strict ordering) and the rate limit hold the queue, ms each; 0: not.
local function held_until(queue)
  local l, backoff, rate = queue.limits, 0, 0
  if l.strict and queue.hold > now then backoff = queue.hold end
  if l.rate_limit > 0 then
    local interval = l.rate_per / l.rate_limit
    -- After a change of the limit: no debt that the new limit could not have made.
    if queue.rate_at > now + l.rate_per then queue.rate_at = now + l.rate_per end
    local allowed = math.ceil(queue.rate_at - (l.rate_limit - 1) * interval)
    if allowed > now then rate = allowed end
  end
  return backoff, rate
end

-- When the queue may start a message: -1 never (paused for good), 0 now, otherwise ms.
local function start_at(queue)
  local l = queue.limits
  if l == DEFAULT_LIMITS then return 0 end
  if l.queue_paused == -1 or l.account_paused == -1 then return -1 end
  local at = math.max(l.queue_paused, l.account_paused, held_until(queue))
  return at > now and at or 0
end

local function place(queue)
  promote(queue)
  local standing, at
  if queue.waiting == 0 then
    if queue.due > 0 then standing, at = 't', queue.due
    elseif running(queue) > 0 then standing = 'b'
    else standing = 'i' end
  elseif running(queue) >= queue.concurrency then
    standing = 'f'
  else
    at = start_at(queue)
    if at == -1 then standing = 'p' elseif at > 0 then standing = 't' else standing = 'r' end
  end
  if standing == 'r' and queue.standing ~= 'r' then
    -- No queue saves credit while it has nothing to do, and equals keep the order in which they became ready.
    queue.vtime = math.max(queue.vtime, lane.vtime)
    lane.vtime = lane.vtime + 1
  end
  queue.standing, queue.at = standing, at
  return standing
end

-- Whether a waiting consumer must be woken, because something can start or is due earlier than was known.
local must_signal = false

-- place() and mark_changed() for a change that a waiting consumer may have to know.
local function update(queue)
  local standing = place(queue)
  mark_changed(queue)
  if standing == 'r' then must_signal = true elseif standing == 't' then queue.signal_timer = true end
end

-- Adds one or two arguments for a command on a key.
local function add_to(lists, key, first, second)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  local n = #list
  list[n + 1], list[n + 2] = first, second
end

-- Runs the command for each key, with all of its arguments.
local function call_each(command, lists)
  for key, list in pairs(lists) do
    for i = 1, #list, PART do redis.call(command, key, unpack(list, i, math.min(i + PART - 1, #list))) end
  end
end

-- Members of `leases` to be written, and to be removed.
local expiries, ended = {}, {}

local function save_leases()
  call_each('ZREM', ended)
  call_each('ZADD', expiries)
  expiries, ended = {}, {}
end

-- Writes ready, timers, idle and names for the changed queues.
local function save_sets()
  local added, removed, timed = {}, {}, false
  for _, queue in ipairs(changed) do
    local standing, listed, token = queue.standing, queue.listed, queue.token
    if not listed then add_to(added, K.names, '0', token) end
    if queue.recovered then
      for _, set in ipairs({ K.ready, K.timers, K.idle }) do add_to(removed, set, token) end
      queue.recovered = false
    end
    if standing ~= listed then
      local old = listed == 'r' and K.ready or listed == 't' and K.timers or listed == 'i' and K.idle
      if old then add_to(removed, old, token) end
    end
    if standing == 'r' then
      if listed ~= 'r' or queue.score ~= queue.vtime then add_to(added, K.ready, whole(queue.vtime), token) end
      queue.score = queue.vtime
    elseif standing == 't' then
      if queue.at then -- it was placed in this call
        add_to(added, K.timers, whole(queue.at), token)
        timed = true
      end
    elseif standing == 'i' and listed ~= 'i' then
      add_to(added, K.idle, whole(now), token)
    end
    queue.listed = standing
  end
  call_each('ZREM', removed)
  call_each('ZADD', added)
  if timed and not must_signal then
    local queue = opened[redis.call('ZRANGE', K.timers, 0, 0)[1]]
    must_signal = queue and queue.signal_timer
  end
end

-- Since when the queue's next entry waits, as text; nil if it cannot be read.
local function arrival(queue)
  if queue.head_added then return queue.head_added end
  local head = redis.call('ZRANGE', K.waiting .. queue.token, 0, 0)[1]
  local value = head and redis.call('HGET', K.entries .. queue.token, head)
  return value and string.match(value, '^%d+:(%d+):')
end

-- Writes the changed queues: the lane's sets, the arrival of each next entry, the long backlogs, and the states.
local function save_queues()
  save_sets()
  local added, removed, states = {}, {}, {}
  for i, queue in ipairs(changed) do
    if queue.head_changed then
      if queue.waiting >= HEAVY then
        add_to(added, K.backlog, whole(queue.waiting), queue.token)
        queue.heavy = 1
      elseif queue.heavy == 1 then
        add_to(removed, K.backlog, queue.token)
        queue.heavy = 0
      end
      local since = queue.waiting > 0 and arrival(queue)
      if since then
        add_to(added, K.since, since, queue.token)
      elseif queue.waiting == 0 then
        add_to(removed, K.since, queue.token)
      end
      queue.head_changed = false
    end
    if queue.damaged then
      add_to(added, K.damaged, whole(now), queue.token)
      queue.damaged = false
    end
    states[2 * i - 1] = K.state .. queue.token
    states[2 * i] = encode_state(queue)
    queue.changed = false
  end
  changed = {}
  call_each('ZREM', removed)
  call_each('ZADD', added)
  for i = 1, #states, PART do redis.call('MSET', unpack(states, i, math.min(i + PART - 1, #states))) end
end

-- Ends a script: writes everything that it has changed, and signals the bell if a consumer must be woken.
local function save()
  save_leases()
  save_queues()
  if must_signal then signal() end
  save_lane()
end

-- Deletes the state of a queue that holds nothing; its settings stay. False: it holds something.
local function delete_queue(queue)
  local token = queue.token
  if redis.call('EXISTS', K.waiting .. token, K.delayed .. token, K.entries .. token, K.slots .. token) > 0 then
    return false
  end
  redis.call('DEL', K.state .. token)
  opened[token], read[token] = nil, false
  for _, key in ipairs({ K.names, K.idle, K.ready, K.timers, K.since, K.backlog, K.damaged }) do
    redis.call('ZREM', key, token)
  end
  local hour = floor(now / 3600000)
  for back = 0, 1 do redis.call('ZREM', K.spent .. (hour - back), token) end
  return true
end
