-- Which of these entries the lane does not hold. Their tenant queues are repaired first, and each entry too.
-- KEYS: root
-- ARGV: lease in ms, then for each entry: token, entry id
-- Returns {positions (from 0) of those that are missing, violations: {kind, token, detail}, ...}
-- Invariant: an entry that is not returned is in exactly one place, and its queue has the standing by which claims find
-- it.
-- @include writable
-- @include repair
local FIRST, FIELDS = 2, 2
local lease_ms, missing, repaired = tonumber(ARGV[1]), {}, {}
read_states(ARGV, FIRST, FIELDS)
for i = FIRST, #ARGV, FIELDS do
  local token, id = ARGV[i], ARGV[i + 1]
  if not repaired[token] then
    repaired[token] = true
    repair_queue(token, lease_ms, false)
  end
  local value = redis.call('HGET', K.entries .. token, id)
  if value then
    local queue, before = open(token), #found
    repair_entry(queue, id, value, leased_ids(queue))
    if #found > before then update(queue) end
    if redis.call('HEXISTS', K.entries .. token, id) == 0 then value = false end
  end
  if not value then missing[#missing + 1] = (i - FIRST) / FIELDS end
end
save()
return { missing, unpack(found) }
