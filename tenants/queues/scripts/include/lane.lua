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

-- The lane's own state is one packed string: as a hash, reading and writing it took a fifth of a settle. The layout
-- stands in keys.py too.
local LANE, LANE_SIZE = '>dddddddddddddd', 112
local stored = redis.call('GET', R)
local lane
do
  local v, seq, epoch, waiting, delayed, paused, global, mean, slot, configured, looked, worked, starts, dwelt
  if stored and #stored == LANE_SIZE then
    v, seq, epoch, waiting, delayed, paused, global, mean, slot, configured, looked, worked, starts, dwelt =
      struct.unpack(LANE, stored)
  else
    -- A new lane, or one whose state was lost or cannot be read: what nothing else tells is taken from the other keys.
    -- The clock starts at the last account of the row, so that newcomers do not pass those who wait.
    v = tonumber(redis.call('ZRANGE', K.ready, -1, -1, 'WITHSCORES')[2])
    configured = redis.call('EXISTS', K.limits)
    slot = now
  end
  lane = {
    v = v or 0,                   -- virtual clock, µs of service at weight 1
    seq = seq or 0,               -- last number given to an entry; never below the clock, so that a loss repeats none
    epoch = epoch or 0,           -- last epoch given to a lease
    waiting = waiting or 0,
    delayed = delayed or 0,
    paused = paused or 0,         -- ms until; 0 not, -1 for good
    global = global or 0,         -- most leases at one time; 0 no bound
    mean = mean or 1000,          -- moving average of the µs a message takes
    slot = slot or 0,             -- last slot number given where slots are not limited
    configured = configured or 0, -- 1: some account has settings of its own
    looked = looked or 0,         -- ms of the last look at timers and expired leases
    worked = worked or 0,         -- µs used that have not moved the virtual clock yet
    starts = starts or 0,         -- messages started, ever
    dwelt = dwelt or 0,           -- ms from their arrival (or due time) to their start, summed
  }
end

-- Writes what has changed.
local function save_lane()
  local l = lane
  local packed = struct.pack(LANE, l.v, l.seq, l.epoch, l.waiting, l.delayed, l.paused, l.global, l.mean, l.slot,
    l.configured, l.looked, l.worked, l.starts, l.dwelt)
  if packed ~= stored then redis.call('SET', R, packed) end
end

local function lane_is_paused()
  return lane.paused == -1 or lane.paused > now
end

-- How many more messages the lane as a whole lets start.
local function lane_room()
  if lane_is_paused() then return 0 end
  return lane.global == 0 and math.huge or math.max(0, lane.global - redis.call('ZCARD', K.leases))
end

-- One element is enough: a consumer that comes later takes it at once, and each claim that leaves work behind
-- rings for the next one.
local function ring()
  if redis.call('LLEN', K.bell) == 0 then
    redis.call('RPUSH', K.bell, '1')
  end
end
