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
  local due = redis.call('ZRANGEBYSCORE', K.timers, '-inf', now, 'LIMIT', 0, LOOKED_AT)
  for _, token in ipairs(due) do
    local a = open(token)
    place(a)
    close(a)
  end
end

-- The clock goes on with the work done, so that an account in debt is reached even while newcomers never end; but
-- never far ahead of the first in the row, so that newcomers do not wait for what others were charged too much.
local function advance_clock(first)
  if lane.worked > 0 then
    local sharers = redis.call('ZCARD', K.ready) + 1
    lane.v = math.max(lane.v, math.min(lane.v + lane.worked / sharers, first + lane.mean))
    lane.worked = 0
  end
end

local function start_some(worker, request, lease_ms, count)
  local claimed = {}
  local looked = now - lane.looked >= LOOK_EVERY or now < lane.looked
  if looked then look() end
  -- An account that cannot start after all is placed elsewhere and costs one turn, so the loop is bounded.
  for _ = 1, count + LOOKED_AT do
    if #claimed >= count then break end
    if lane.global > 0 then save_leases() end -- they are counted
    if not lane_has_room() then break end
    local first = redis.call('ZPOPMIN', K.ready)
    if not first[1] and not looked then
      looked = true
      look()
      first = redis.call('ZPOPMIN', K.ready)
    end
    if not first[1] then break end
    local start = tonumber(first[2])
    advance_clock(start)
    local a = open(first[1])
    a.popped = true
    a.stands = 'r'
    local message = take(a, start, worker, request, lease_ms)
    if message then claimed[#claimed + 1] = message end
  end
  return claimed
end

-- Leaves the bell to the next consumer when something could still be started.
local function pass_on()
  local left = redis.call('ZCARD', K.ready)
  if left > 0 then
    if lane_has_room() then ring() else left = 0 end
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
