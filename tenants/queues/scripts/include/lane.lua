-- The lane: clock, totals and settings, read once and written once by each script.
-- @include keys
-- Gives: now (ms), now_us, lane, save_lane(), whole(), ring().
local floor = math.floor
local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = floor(now_us / 1000)

-- A number without its fraction, as text: `..` would round it beyond 14 digits, and the server's own way of writing a
-- number that is an argument of a command takes longer than the command.
local format = string.format
local function whole(number)
  return format('%d', number)
end

local stored = redis.call('HMGET', R, 'v', 'seq', 'epoch', 'waiting', 'delayed', 'paused', 'global', 'mean', 'slot',
  'configured', 'looked', 'worked', 'starts', 'dwelt')
local lane = {
  v = tonumber(stored[1]) or 0,          -- virtual clock, µs of service at weight 1
  seq = tonumber(stored[2]) or 0,        -- last number given to an entry
  epoch = tonumber(stored[3]) or 0,      -- last epoch given to a lease
  waiting = tonumber(stored[4]) or 0,
  delayed = tonumber(stored[5]) or 0,
  paused = tonumber(stored[6]) or 0,     -- ms until; 0 not, -1 for good
  global = tonumber(stored[7]) or 0,     -- most leases at one time; 0 no bound
  mean = tonumber(stored[8]) or 1000,    -- moving average of the µs a message takes
  slot = tonumber(stored[9]) or 0,       -- last slot number given where slots are not limited
  configured = stored[10] == '1',        -- some account has settings of its own
  looked = tonumber(stored[11]) or 0,    -- ms of the last look at timers and expired leases
  worked = tonumber(stored[12]) or 0,    -- µs used that have not moved the virtual clock yet
  starts = tonumber(stored[13]) or 0,    -- messages started, ever
  dwelt = tonumber(stored[14]) or 0,     -- ms from their arrival (or due time) to their start, summed
}

-- Writes what has changed, in one command.
local SAVED = { 'v', 'seq', 'epoch', 'waiting', 'delayed', 'mean', 'slot', 'looked', 'worked', 'starts', 'dwelt' }
local read = {}
for i = 1, #SAVED do read[i] = lane[SAVED[i]] end

local function save_lane()
  local changed, n = {}, 0
  for i = 1, #SAVED do
    local field = SAVED[i]
    local value = lane[field]
    if value ~= read[i] then
      changed[n + 1], changed[n + 2] = field, whole(value)
      n = n + 2
    end
  end
  if n > 0 then redis.call('HSET', R, unpack(changed)) end
end

local function lane_is_paused()
  return lane.paused == -1 or lane.paused > now
end

-- Whether the lane as a whole lets another message start.
local function lane_has_room()
  if lane_is_paused() then return false end
  return lane.global == 0 or redis.call('ZCARD', K.leases) < lane.global
end

-- One element is enough: a consumer that comes later takes it at once, and each claim that leaves work behind
-- rings for the next one.
local function ring()
  if redis.call('LLEN', K.bell) == 0 then
    redis.call('RPUSH', K.bell, '1')
  end
end
