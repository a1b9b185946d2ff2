-- Why an entry does not run. Changes nothing.
-- KEYS: root
-- ARGV: token, entry id
-- Returns {the server's ms, 'absent'|'leased'|'delayed'|'waiting', due ms or 0, place (waiting), slots in use, slots
--         allowed, ms until which a strict backoff holds or 0, the same of the rate, lane paused ms or 0 or -1, lane's
--         leases, lane's most, 1 when keys of the queue are lost so that the entry is not found}; 'absent' may also be one
--         that was lost
-- @include lane
-- @include account
-- @include lease
local a = open(ARGV[1])
local id = ARGV[2]
local backoff, rate = held_until(a)
local state, due, place_in_queue = 'absent', 0, 0
local waiting_place = redis.call('ZRANK', K.waiting .. a.token, id)
local delayed_until = redis.call('ZSCORE', K.delayed .. a.token, id)
if waiting_place then state, place_in_queue = 'waiting', waiting_place
elseif delayed_until then state, due = 'delayed', delayed_until
elseif redis.call('HEXISTS', K.entries .. a.token, id) == 1 then
  state = 'lost'
  for _, slot in ipairs(slots_of(a)) do
    local record = lease_in(a, slot)
    if record and record.id == id then state = 'leased' end
  end
end

-- Whether a claim can find the queue of an entry that waits.
local function is_found()
  if state == 'absent' or state == 'leased' then return true end
  if state == 'lost' or a.recovered or not a.stands then return false end
  local set = a.stands == 'r' and K.ready or a.stands == 't' and K.timers
  if set then return redis.call('ZSCORE', set, a.token) end
  return a.stands ~= 'i' and a.stands ~= 'b'
end

return { now, state, tostring(due), place_in_queue, running(a), math.min(a.concurrency, 1000000),
  backoff, rate, tostring(lane.paused), redis.call('ZCARD', K.leases), lane.global, is_found() and 0 or 1 }
