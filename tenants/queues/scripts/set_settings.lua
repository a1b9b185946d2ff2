-- Replaces all settings of tenant queues: limits, the queue's own pause and the account's, together.
-- KEYS: root
-- ARGV: for each queue: token, nine numbers joined by colons (see limits.py)
-- Returns the number of queues whose settings changed.
-- Invariant: as in configure: default settings are not kept, and what waits already feels a change at once.
-- @include writable
-- @include lane
-- @include account
local replaced = 0
lane.configured = redis.call('EXISTS', K.limits)
open_soon(ARGV, 1, 2)
for i = 1, #ARGV, 2 do
  local token, value = ARGV[i], ARGV[i + 1]
  local default = value == '1:1:0:0:0:0:0:0:0'
  local before = redis.call('HGET', K.limits, token) or '1:1:0:0:0:0:0:0:0'
  if before ~= value then
    replaced = replaced + 1
    if default then
      redis.call('HDEL', K.limits, token)
    else
      redis.call('HSET', K.limits, token, value)
      lane.configured = 1
    end
    local a = open(token)
    if a.stands then
      reweigh(a, before)
      if not a.limits.strict then a.hold = 0 end
      put(a)
    end
  end
end
save_accounts()
if wake then ring() end
save_lane()
return replaced
