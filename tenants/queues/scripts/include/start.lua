-- Starting messages. Needs lease.lua. Gives: start_some(worker, request, lease_ms, count) → claimed messages, and
-- next_look(): in how many ms somebody should look again (-1: no time is known), and pass_on().
local LOOKED_AT = 32

local function look_at_timers()
  local due = redis.call('ZRANGEBYSCORE', K.timers, '-inf', now, 'LIMIT', 0, LOOKED_AT)
  for _, token in ipairs(due) do
    local a = open(token)
    place(a)
    close(a)
  end
end

local function start_some(worker, request, lease_ms, count)
  local claimed = {}
  look_at_timers()
  -- An account that cannot start after all is placed elsewhere and costs one turn, so the loop is bounded.
  for _ = 1, count + LOOKED_AT do
    if #claimed >= count or not lane_has_room() then break end
    local first = redis.call('ZPOPMIN', K.ready)
    if not first[1] then break end
    local a = open(first[1])
    a.popped = true
    a.stands = 'r'
    local message = take(a, tonumber(first[2]), worker, request, lease_ms)
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

local function next_look()
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
