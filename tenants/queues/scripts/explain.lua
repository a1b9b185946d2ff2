-- Why an entry does not run. Changes nothing.
-- KEYS: root
-- ARGV: token, entry id
-- Returns {the server's ms, 'absent'|'leased'|'delayed'|'waiting'|'lost', due ms or 0, place (waiting), slots in use,
--         slots allowed, ms until which a strict backoff holds or 0, the same for the rate limit, lane paused ms or 0 or
--         -1, lane's leases, lane's most, 1 if claims cannot find the entry because keys are lost}; an entry whose value
--         was lost is 'absent'
-- @include lease
local queue = open(ARGV[1])
local id = ARGV[2]
local backoff, rate = held_until(queue)
local state, due, place_in_queue = 'absent', 0, 0
local waiting_place = redis.call('ZRANK', K.waiting .. queue.token, id)
local delayed_until = redis.call('ZSCORE', K.delayed .. queue.token, id)
if waiting_place then state, place_in_queue = 'waiting', waiting_place
elseif delayed_until then state, due = 'delayed', delayed_until
elseif redis.call('HEXISTS', K.entries .. queue.token, id) == 1 then
  state = 'lost'
  for _, slot in ipairs(slots_of(queue)) do
    local lease = lease_in(queue, slot)
    if lease and lease.id == id then state = 'leased' end
  end
end

-- Whether a claim can find the queue of an entry that waits.
local function is_found()
  if state == 'absent' or state == 'leased' then return true end
  if state == 'lost' or queue.recovered or not queue.standing then return false end
  local set = queue.standing == 'r' and K.ready or queue.standing == 't' and K.timers
  if set then return redis.call('ZSCORE', set, queue.token) end
  return queue.standing ~= 'i' and queue.standing ~= 'b'
end

return { now, state, tostring(due), place_in_queue, running(queue), math.min(queue.concurrency, 1000000),
  backoff, rate, tostring(lane.paused), redis.call('ZCARD', K.leases), lane.global, is_found() and 0 or 1 }
