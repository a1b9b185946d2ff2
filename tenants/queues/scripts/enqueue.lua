-- Adds entries to tenant queues of one lane; all or, where a queue would be too full, none.
-- KEYS: root
-- ARGV: for each entry: token, entry id (while it is held, nothing happens but that one that is delayed comes due
--       earlier, if it is to, and that one that a lost key has left in no place is added anew), rank (0-255), sequence
--       ('' : the lane gives the next), delay in ms, message
-- Returns {1 if the lane was new, added (1/0 for each)} or {'full', token, max_waiting}
-- Invariant: an id stands in `entries` exactly while the queue holds it, so a second enqueue of it finds it.
-- @include writable
-- @include lane
-- @include account
-- @include lease
local SEQUENCES = 35184372088832 -- 2^45: the sequence's part of a score
local FIELDS = 6

local accounts, order, planned = {}, {}, {}
open_soon(ARGV, 1, FIELDS)
for i = 1, #ARGV, FIELDS do
  local token = ARGV[i]
  if not accounts[token] then
    accounts[token] = open(token)
    order[#order + 1] = token
    planned[token] = 0
  end
  local a = accounts[token]
  if a.limits.max_waiting > 0 and redis.call('HEXISTS', K.entries .. a.token, ARGV[i + 1]) == 0 then
    planned[token] = planned[token] + 1
  end
end
for _, token in ipairs(order) do
  local a = accounts[token]
  local most = a.limits.max_waiting
  if planned[token] > 0 and
    a.count + redis.call('ZCARD', K.delayed .. a.token) + planned[token] > most then
    return { 'full', token, most }
  end
end

-- A held entry that is delayed for longer than is asked for now: the earlier time counts.
local function hasten(a, id, due, delay, until_now)
  if until_now <= due then return end
  local value = redis.call('HGET', K.entries .. a.token, id)
  local score, _, deliveries, start = decode_entry(value)
  if not score then return end
  redis.call('HSET', K.entries .. a.token, id, encode_entry(score, due, deliveries, string.sub(value, start)))
  redis.call('ZREM', K.delayed .. a.token, id)
  lane.delayed = lane.delayed - 1
  local first = redis.call('ZRANGE', K.delayed .. a.token, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
  if delay > 0 then put_delayed(a, id, due) else put_waiting(a, id, score, due) end
  a.grew = true
end

local is_new = lane.seq == 0 and 1 or 0
local added = {}
for i = 1, #ARGV, FIELDS do
  local a, id, delay = accounts[ARGV[i]], ARGV[i + 1], tonumber(ARGV[i + 4])
  local sequence = tonumber(ARGV[i + 3]) or math.max(lane.seq + 1, now)
  local score = tonumber(ARGV[i + 2]) * SEQUENCES + sequence
  local due = now + delay
  local value = encode_entry(score, due, 0, ARGV[i + 5])
  local held = redis.call('HSETNX', K.entries .. a.token, id, value) == 0
  if held then
    local until_now = tonumber(redis.call('ZSCORE', K.delayed .. a.token, id))
    if until_now then
      hasten(a, id, due, delay, until_now)
    elseif not redis.call('ZSCORE', K.waiting .. a.token, id) and not may_be_leased(a, id) then
      redis.call('HSET', K.entries .. a.token, id, value)
      held = false
    end
  end
  if held then
    added[#added + 1] = 0
  else
    lane.seq = math.max(lane.seq + 1, now)
    if delay > 0 then put_delayed(a, id, due) else put_waiting(a, id, score, due) end
    a.used_at = now
    a.grew = true
    added[#added + 1] = 1
  end
end
for _, token in ipairs(order) do
  local a = accounts[token]
  if a.grew then put(a) end
end
save_accounts()
if wake then ring() end
save_lane()
return { is_new, added }
