-- Which of these entries the lane does not hold; their tenant queues are repaired first, and each entry as well.
-- KEYS: root
-- ARGV: lease in ms, then for each entry: token, entry id
-- Returns {positions (from 0) of those that are missing, violations: {kind, token, detail}, ...}
-- Invariant: an entry that is not named is held in exactly one place, and its queue stands where it is found.
-- @include writable
-- @include lane
-- @include account
-- @include lease
-- @include repair
local FIRST, FIELDS = 2, 2
local lease_ms, missing, repaired = tonumber(ARGV[1]), {}, {}
open_soon(ARGV, FIRST, FIELDS)
for i = FIRST, #ARGV, FIELDS do
  local token, id = ARGV[i], ARGV[i + 1]
  if not repaired[token] then
    repaired[token] = true
    repair_queue(token, lease_ms, false)
  end
  local value = redis.call('HGET', K.entries .. token, id)
  if value then
    local a, before = open(token), #found
    repair_entry(a, id, value, leased_ids(a))
    if #found > before then put(a) end
    if redis.call('HEXISTS', K.entries .. token, id) == 0 then value = false end
  end
  if not value then missing[#missing + 1] = (i - FIRST) / FIELDS end
end
save_accounts()
if wake then ring() end
save_lane()
return { missing, unpack(found) }
