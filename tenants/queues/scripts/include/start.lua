-- Starting messages. Needs lease.lua. Gives: start_some(worker, request, lease_ms, count) → claimed messages,
-- pass_on() → accounts that are still ready, next_look(left): in how many ms somebody should look again (-1: no time
-- is known).
local LOOKED_AT = 32
local RESCUED_AT_ONCE = 8
-- Between two settles of a busy lane the timers need no look: a due message is at most this late, ms.
local LOOK_EVERY = 3

-- Expired leases go back, and queues whose time has come are placed anew; bounded, the rest at the next look.
local function look()
  lane.looked = now
  rescue_some(RESCUED_AT_ONCE)
  save_sets()
  local due = redis.call('ZRANGEBYSCORE', K.timers, '-inf', now, 'LIMIT', 0, LOOKED_AT)
  open_soon(due, 1, 1)
  for _, token in ipairs(due) do
    local a = open(token)
    place(a)
    close(a)
  end
end

-- Pairs from `from` on, each turned round: what ZPOPMIN gave, as ZADD takes it.
local function reversed(list, from)
  local out = {}
  for i = from, #list, 2 do
    out[#out + 1] = list[i + 1]
    out[#out + 1] = list[i]
  end
  return out
end

-- The clock goes on with the work done, so that an account in debt is reached even while newcomers never end; but
-- never far ahead of the first in the row, so that newcomers do not wait for what others were charged too much.
-- `popped`: how many were taken out of the row.
local function advance_clock(first, popped)
  if lane.worked > 0 then
    local sharers = redis.call('ZCARD', K.ready) + popped
    lane.v = math.max(lane.v, math.min(lane.v + lane.worked / sharers, first + lane.mean))
    lane.worked = 0
  end
end

-- The first `most` of the row, as tokens and scores.
local function pop_ready(most)
  save_sets()
  return redis.call('ZPOPMIN', K.ready, most)
end

local function start_some(worker, request, lease_ms, count)
  local claimed = {}
  local looked = now - lane.looked >= LOOK_EVERY or now < lane.looked
  if looked then look() end
  local at_once = count
  -- An account that cannot start after all is placed elsewhere and costs one turn, so the loop is bounded.
  local turns = count + LOOKED_AT
  while turns > 0 and #claimed < count * CLAIM_FIELDS do
    if lane.global > 0 then save_leases() end -- they are counted
    local most = math.min(count - #claimed / CLAIM_FIELDS, at_once, turns, lane_room())
    if most == 0 then break end
    local popped = pop_ready(most)
    if not popped[1] and not looked then
      looked = true
      look()
      popped = pop_ready(most)
    end
    if not popped[1] then break end
    open_soon(popped, 1, 2)
    local again
    for i = 1, #popped, 2 do
      local start = tonumber(popped[i + 1])
      if again and again < start then
        -- An account that has just started a message may start its next one before these.
        call_each('ZADD', { [S.ready] = reversed(popped, i) })
        at_once = 1
        break
      end
      turns = turns - 1
      advance_clock(start, (#popped - i + 1) / 2)
      local a = open(popped[i])
      a.stands, a.stood = 'r', 'x' -- in no set
      take(a, start, worker, request, lease_ms, claimed)
      if a.stands == 'r' and (not again or a.v < again) then again = a.v end
    end
  end
  return claimed
end

-- Leaves the bell to the next consumer when something could still be started.
local function pass_on()
  local left = redis.call('ZCARD', K.ready)
  if left > 0 then
    if lane_room() > 0 then ring() else left = 0 end
  end
  return left
end

local function next_look(left)
  if left > 0 then return 0 end
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
