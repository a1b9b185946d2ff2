-- Changes limits or pauses of tenant queues; what waits already feels it at once.
-- KEYS: root
-- ARGV: what (limits | queue_paused | account_paused), value (seven numbers joined by colons | ms until, 0, -1), tokens
-- Returns the number of queues that have state.
-- Invariant: settings that equal the defaults are not kept; settings outlive the queue's state.
-- @include writable
-- @include lane
-- @include account
local what, value = ARGV[1], ARGV[2]
local present = 0
lane.configured = 1
open_soon(ARGV, 3, 1)
for i = 3, #ARGV do
  local token = ARGV[i]
  local raw = redis.call('HGET', K.limits, token) or '1:1:0:0:0:0:0:0:0'
  local limits, queue_paused, account_paused = string.match(raw, '^([%d:]+):(%-?%d+):(%-?%d+)$')
  if not limits then limits, queue_paused, account_paused = '1:1:0:0:0:0:0', '0', '0' end -- they cannot be read
  if what == 'limits' then limits = value
  elseif what == 'queue_paused' then queue_paused = value
  else account_paused = value end
  local changed = limits .. ':' .. queue_paused .. ':' .. account_paused
  if changed == '1:1:0:0:0:0:0:0:0' then
    redis.call('HDEL', K.limits, token)
  else
    redis.call('HSET', K.limits, token, changed)
  end
  local a = open(token)
  if a.stands then
    reweigh(a, raw)
    if not a.limits.strict then a.hold = 0 end
    put(a)
    present = present + 1
  end
end
save_accounts()
if wake then ring() end
save_lane()
return present
