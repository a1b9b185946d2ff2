-- Tears down tenant queues that are empty and unused for a time.
-- KEYS: root
-- ARGV: idle in ms, most, dry (1: only tells)
-- Returns tokens.
-- Invariant: empty is looked at here, in the script, so no enqueue is ever lost to the reaper; a queue whose rate has
-- starts to answer for is not torn down, because with its state they would be forgotten.
-- @include writable
-- @include lane
-- @include account
local idle, most, dry = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local reaped = {}

local function owes_starts(a)
  return a.limits.rate_limit > 0 and a.rate_at > now
end

local tokens = redis.call('ZRANGEBYSCORE', K.idle, '-inf', now - idle, 'LIMIT', 0, most)
open_soon(tokens, 1, 1)
for _, token in ipairs(tokens) do
  local a = open(token)
  if not owes_starts(a) and (dry or tear_down(a)) then
    reaped[#reaped + 1] = token
  elseif not dry then
    -- It owes starts, or holds something after all and does not belong among the idle ones.
    place(a)
    close(a)
    save_accounts()
    if a.stands == 'i' then redis.call('ZADD', K.idle, now, token) else redis.call('ZREM', K.idle, token) end
  end
end
return reaped
