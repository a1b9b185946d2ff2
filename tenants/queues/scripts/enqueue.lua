-- Adds entries to tenant queues of one lane; none if one of the queues would be too full.
-- KEYS: root
-- ARGV: for each entry: token, entry id, rank (0-255), sequence ('': the lane gives the next), delay in ms, message
-- Returns {1 if the lane was new, added (1/0 for each)} or {'full', token, max_waiting}
-- Invariant: an id is in `entries` exactly while the queue holds it. An entry with a held id is not added; if the held
-- one is delayed, it becomes due at the earlier of both times, and if a lost key has left it in no place, it is replaced.
-- @include writable
-- @include lease
local SEQUENCES = 35184372088832 -- 2^45: the sequence's part of a score
local FIELDS = 6

local accounts, order, planned = {}, {}, {}
read_states(ARGV, 1, FIELDS)
for i = 1, #ARGV, FIELDS do
  local token = ARGV[i]
  if not accounts[token] then
    accounts[token] = open(token)
    order[#order + 1] = token
    planned[token] = 0
  end
  local queue = accounts[token]
  if queue.limits.max_waiting > 0 and redis.call('HEXISTS', K.entries .. queue.token, ARGV[i + 1]) == 0 then
    planned[token] = planned[token] + 1
  end
end
for _, token in ipairs(order) do
  local queue = accounts[token]
  local most = queue.limits.max_waiting
  if planned[token] > 0 and
    queue.waiting + redis.call('ZCARD', K.delayed .. queue.token) + planned[token] > most then
    return { 'full', token, most }
  end
end

-- Brings the due time of a delayed entry forward.
local function hasten(queue, id, due, delay)
  local value = redis.call('HGET', K.entries .. queue.token, id)
  local score, _, deliveries, start = decode_entry(value)
  if not score then return end
  redis.call('HSET', K.entries .. queue.token, id, encode_entry(score, due, deliveries, string.sub(value, start)))
  take_delayed(queue, id)
  queue.due = first_due(queue)
  if delay > 0 then put_delayed(queue, id, due) else put_waiting(queue, id, score, due) end
  queue.has_new = true
end

local is_new = lane.seq == 0 and 1 or 0
local added = {}
for i = 1, #ARGV, FIELDS do
  local queue, id, delay = accounts[ARGV[i]], ARGV[i + 1], tonumber(ARGV[i + 4])
  local sequence = tonumber(ARGV[i + 3]) or math.max(lane.seq + 1, now)
  local score = tonumber(ARGV[i + 2]) * SEQUENCES + sequence
  local due = now + delay
  local value = encode_entry(score, due, 0, ARGV[i + 5])
  local held = redis.call('HSETNX', K.entries .. queue.token, id, value) == 0
  if held then
    local known_due = tonumber(redis.call('ZSCORE', K.delayed .. queue.token, id))
    if known_due then
      if due < known_due then hasten(queue, id, due, delay) end
    elseif not redis.call('ZSCORE', K.waiting .. queue.token, id) and not may_be_leased(queue, id) then
      redis.call('HSET', K.entries .. queue.token, id, value)
      held = false
    end
  end
  if held then
    added[#added + 1] = 0
  else
    lane.seq = math.max(lane.seq + 1, now)
    if delay > 0 then put_delayed(queue, id, due) else put_waiting(queue, id, score, due) end
    queue.used_at = now
    queue.has_new = true
    added[#added + 1] = 1
  end
end
for _, token in ipairs(order) do
  local queue = accounts[token]
  if queue.has_new then update(queue) end
end
save()
return { is_new, added }
