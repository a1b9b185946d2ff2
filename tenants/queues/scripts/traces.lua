-- Which keys of the lane still have something of a tenant queue: messages, state, leases, settings, use. Changes nothing.
-- KEYS: root
-- ARGV: token
-- Returns the names of the keys (see keys.py), in any order.
-- @include lane
-- Slots are numbered below the highest concurrency that can be set.
local SLOTS = 1000
local token = ARGV[1]
local out = {}
local own = { state = K.state, waiting = K.waiting, delayed = K.delayed, entries = K.entries, slots = K.slots }
for name, key in pairs(own) do
  if redis.call('EXISTS', key .. token) == 1 then out[#out + 1] = name end
end
local shared = { ready = K.ready, timers = K.timers, idle = K.idle, names = K.names, since = K.since,
  backlog = K.backlog }
for name, key in pairs(shared) do
  if redis.call('ZSCORE', key, token) then out[#out + 1] = name end
end
if redis.call('HEXISTS', K.limits, token) == 1 then out[#out + 1] = 'limits' end
for slot = 0, SLOTS - 1 do
  if redis.call('ZSCORE', K.leases, slot .. ':' .. token) then
    out[#out + 1] = 'leases'
    break
  end
end
local hour = floor(now / 3600000)
for back = 0, 1 do
  if redis.call('ZSCORE', K.spent .. (hour - back), token) then out[#out + 1] = 'spent' end
end
return out
