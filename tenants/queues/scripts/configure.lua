-- Changes the limits or one of the pauses of tenant queues.
-- KEYS: root
-- ARGV: what (limits | queue_paused | account_paused), value (seven numbers joined by colons | ms until, 0, -1), tokens
-- Returns the number of queues that have state.
-- @include writable
-- @include settings
local what, value = ARGV[1], ARGV[2]
local present = 0
read_states(ARGV, 3, 1)
for i = 3, #ARGV do
  local before = settings_of(ARGV[i])
  local limits, queue_paused, account_paused = string.match(before, '^([%d:]+):(%-?%d+):(%-?%d+)$')
  if not limits then limits, queue_paused, account_paused = '1:1:0:0:0:0:0', '0', '0' end -- they cannot be read
  if what == 'limits' then limits = value
  elseif what == 'queue_paused' then queue_paused = value
  else account_paused = value end
  if store_settings(ARGV[i], before, limits .. ':' .. queue_paused .. ':' .. account_paused) then
    present = present + 1
  end
end
save()
return present
