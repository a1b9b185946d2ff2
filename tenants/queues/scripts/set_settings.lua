-- Replaces all settings of tenant queues together: limits, the queue's own pause and the account's.
-- KEYS: root
-- ARGV: for each queue: token, nine numbers joined by colons (see limits.py)
-- Returns the number of queues whose settings changed.
-- @include writable
-- @include settings
local replaced = 0
read_states(ARGV, 1, 2)
for i = 1, #ARGV, 2 do
  local before = settings_of(ARGV[i])
  if before ~= ARGV[i + 1] then
    store_settings(ARGV[i], before, ARGV[i + 1])
    replaced = replaced + 1
  end
end
save()
return replaced
