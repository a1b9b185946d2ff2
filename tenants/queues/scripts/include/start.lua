-- Starts of messages, in the order of a weighted fair queue.
-- Gives: start_some(worker, request, lease_ms, count) → claimed messages; signal_ready() → number of ready accounts;
-- next_poll(ready): in how many ms a consumer should poll (-1: no time is known).
-- @include lease
local POLLED_AT_ONCE = 32
local RESCUED_AT_ONCE = 8
-- A busy lane polls its timers at most this often, ms: a due message is at most that late.
local POLL_EVERY = 3

-- Ends expired leases, and places queues whose time has come; a bounded number, the rest at the next poll.
local function poll()
  lane.polled = now
  rescue_some(RESCUED_AT_ONCE)
  save_sets()
  local due = redis.call('ZRANGEBYSCORE', K.timers, '-inf', now, 'LIMIT', 0, POLLED_AT_ONCE)
  read_states(due, 1, 1)
  for _, token in ipairs(due) do
    local queue = open(token)
    place(queue)
    mark_changed(queue)
  end
end

-- The pairs from `from` on, each reversed: ZPOPMIN gives member and score, ZADD takes score and member.
local function reversed(list, from)
  local out = {}
  for i = from, #list, 2 do
    out[#out + 1] = list[i + 1]
    out[#out + 1] = list[i]
  end
  return out
end

-- Advances the lane's virtual time by the work done, so that an account in debt starts at last even if new accounts
-- always come; but not far past the first ready account, so that new accounts do not wait because others were charged
-- too much. `popped`: how many accounts were removed from ready.
local function advance_vtime(first, popped)
  if lane.worked > 0 then
    local sharers = redis.call('ZCARD', K.ready) + popped
    lane.vtime = math.max(lane.vtime, math.min(lane.vtime + lane.worked / sharers, first + lane.mean))
    lane.worked = 0
  end
end

-- Removes the first `most` ready accounts: tokens and scores.
local function pop_ready(most)
  save_sets()
  return redis.call('ZPOPMIN', K.ready, most)
end

local function start_some(worker, request, lease_ms, count)
  local claimed = {}
  local polled = now - lane.polled >= POLL_EVERY or now < lane.polled
  if polled then poll() end
  local at_once = count
  -- An account that cannot start is placed elsewhere and costs one turn, so the loop is bounded.
  local turns = count + POLLED_AT_ONCE
  while turns > 0 and #claimed < count * CLAIM_FIELDS do
    if lane.global > 0 then save_leases() end -- lane_room() counts them
    local most = math.min(count - #claimed / CLAIM_FIELDS, at_once, turns, lane_room())
    if most == 0 then break end
    local popped = pop_ready(most)
    if not popped[1] and not polled then
      polled = true
      poll()
      popped = pop_ready(most)
    end
    if not popped[1] then break end
    read_states(popped, 1, 2)
    local again
    for i = 1, #popped, 2 do
      local start = tonumber(popped[i + 1])
      if again and again < start then
        -- An account that has just started a message may be next again, before these.
        call_each('ZADD', { [K.ready] = reversed(popped, i) })
        at_once = 1
        break
      end
      turns = turns - 1
      advance_vtime(start, (#popped - i + 1) / 2)
      local queue = open(popped[i])
      queue.standing, queue.listed = 'r', 'x' -- in no set
      start_first(queue, start, worker, request, lease_ms, claimed)
      if queue.standing == 'r' and (not again or queue.vtime < again) then again = queue.vtime end
    end
  end
  return claimed
end

-- Signals the bell for the next consumer if a message can still start.
local function signal_ready()
  local ready = redis.call('ZCARD', K.ready)
  if ready > 0 then
    if lane_room() > 0 then signal() else ready = 0 end
  end
  return ready
end

local function next_poll(ready)
  if ready > 0 then return 0 end
  local at
  for _, key in ipairs({ K.timers, K.leases }) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    local score = tonumber(first[2])
    if score and (not at or score < at) then at = score end
  end
  if lane.paused > now and (not at or lane.paused < at) then at = lane.paused end
  if not at then return -1 end
  return math.max(0, at - now)
end
