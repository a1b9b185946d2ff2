-- The lane: the server's clock, and the lane's totals and settings. Each script reads and writes them once.
-- Gives: now (ms), now_us, lane, save_lane(), whole(number), lane_room(), signal().
-- @include keys
local floor = math.floor
local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = floor(now_us / 1000)

-- A number without its fraction, as text: `..` would round it beyond 14 digits.
local format = string.format
local function whole(number)
  return format('%d', number)
end

-- The fields of the lane, stored as doubles in this order (keys.py has the same list).
local LANE_FIELDS = {
  'vtime',      -- virtual time of the fair queue: µs of service at weight 1
  'seq',        -- last sequence given to an entry; never below the clock, so that none is repeated after a loss
  'epoch',      -- last epoch given to a lease
  'waiting',    -- number of waiting entries
  'delayed',    -- number of delayed entries
  'paused',     -- ms until which nothing starts; 0 not paused, -1 for good
  'global',     -- most leases at one time; 0 no bound
  'mean',       -- moving average of the µs that a message takes
  'slot',       -- last slot number given to a queue without a bound on its slots
  'configured', -- 1: some queue has settings
  'polled',     -- ms of the last poll of timers and expired leases
  'worked',     -- µs of service by which the virtual time has not advanced yet
  'starts',     -- messages started, ever
  'dwelt',      -- ms from arrival (or due time) to start, summed over all starts
}
local LANE, LANE_SIZE = '>' .. string.rep('d', #LANE_FIELDS), 8 * #LANE_FIELDS
local stored = redis.call('GET', R)
local lane = {}
do
  local values = stored and #stored == LANE_SIZE and { struct.unpack(LANE, stored) } or {}
  for i, name in ipairs(LANE_FIELDS) do lane[name] = values[i] or 0 end
  if not values[1] then
    -- A new lane, or one whose state was lost or cannot be read: take what the other keys have. The virtual time
    -- starts at the last ready account, so that newcomers do not pass the accounts that wait.
    lane.vtime = tonumber(redis.call('ZRANGE', K.ready, -1, -1, 'WITHSCORES')[2]) or 0
    lane.configured = redis.call('EXISTS', K.limits)
    lane.mean, lane.slot = 1000, now
  end
end

local function save_lane()
  local values = {}
  for i, name in ipairs(LANE_FIELDS) do values[i] = lane[name] end
  local packed = struct.pack(LANE, unpack(values))
  if packed ~= stored then redis.call('SET', R, packed) end
end

-- How many more messages of the whole lane may start.
local function lane_room()
  if lane.paused == -1 or lane.paused > now then return 0 end
  return lane.global == 0 and math.huge or math.max(0, lane.global - redis.call('ZCARD', K.leases))
end

-- Signals the bell. One element is enough: a consumer takes it at once, and every claim that leaves work behind
-- signals again.
local function signal()
  if redis.call('LLEN', K.bell) == 0 then
    redis.call('RPUSH', K.bell, '1')
  end
end
