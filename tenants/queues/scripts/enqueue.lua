-- Adds entries to tenant queues of one lane; all or, where a queue would be too full, none.
-- KEYS: root
-- ARGV: for each entry: token, entry id, once (1: nothing happens while that id is held), rank (0-255),
--       sequence ('' : the lane gives the next), delay in ms, message
-- Returns {1 if the lane was new, added (1/0 for each)} or {'full', token, max_waiting}
-- Invariant: an id stands in `entries` exactly while the queue holds it, so a second enqueue_once finds it.
-- @include lane
-- @include account
local SEQUENCES = 35184372088832 -- 2^45: the sequence's part of a score
local FIELDS = 7

local accounts, order, planned = {}, {}, {}
for i = 1, #ARGV, FIELDS do
  local token = ARGV[i]
  if not accounts[token] then
    accounts[token] = open(token)
    order[#order + 1] = token
    planned[token] = 0
  end
  local a = accounts[token]
  if a.limits.max_waiting > 0 and (ARGV[i + 2] == '0' or redis.call('HEXISTS', a.entries, ARGV[i + 1]) == 0) then
    planned[token] = planned[token] + 1
  end
end
for _, token in ipairs(order) do
  local a = accounts[token]
  local most = a.limits.max_waiting
  if planned[token] > 0 and
    redis.call('ZCARD', a.waiting) + redis.call('ZCARD', a.delayed) + planned[token] > most then
    return { 'full', token, most }
  end
end

local is_new = lane.seq == 0 and 1 or 0
local added = {}
for i = 1, #ARGV, FIELDS do
  local a, id, once = accounts[ARGV[i]], ARGV[i + 1], ARGV[i + 2] == '1'
  if once and redis.call('HEXISTS', a.entries, id) == 1 then
    added[#added + 1] = 0
  else
    local delay = tonumber(ARGV[i + 5])
    lane.seq = lane.seq + 1
    local sequence = tonumber(ARGV[i + 4]) or lane.seq
    local score = tonumber(ARGV[i + 3]) * SEQUENCES + sequence
    local due = now + delay
    redis.call('HSET', a.entries, id, encode_entry(score, due, 0, ARGV[i + 6]))
    if delay > 0 then put_delayed(a, id, due) else put_waiting(a, id, score) end
    a.used_at = now
    a.changed = true
    added[#added + 1] = 1
  end
end
for _, token in ipairs(order) do
  if accounts[token].changed then put(accounts[token]) end
end
if wake then ring() end
save_lane()
return { is_new, added }
