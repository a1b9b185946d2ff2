-- Carries messages of one tenant queue over from the keys of layout 1, a part at a time.
-- KEYS: root
-- ARGV: root in layout 1, token, number
-- Returns {messages carried over, messages left because their lease has not ended, 1 when there may be more}
-- Invariant: a message is moved in one script, so it is in one of the two layouts at any time; one that a worker of the
-- earlier release may still run is left until its lease ends.
-- @include writable
-- @include lane
-- @include account
-- @include lease
local old, token, number = ARGV[1], ARGV[2], ARGV[3]
local entries, waiting, delayed = old .. ':entries:' .. token, old .. ':waiting:' .. token, old .. ':delayed:' .. token
local a = open(token)

local function is_leased()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', old .. ':leases', now, '+inf')) do
    if string.match(member, '^%d+:(.*)$') == token then return true end
  end
  return false
end

local function carry(id, value, due)
  local score, added = decode_entry(value)
  if not score then
    bury(a, id, 0, 'unreadable', value)
  elseif redis.call('HSETNX', K.entries .. token, id, value) == 1 then
    if due then
      put_delayed(a, id, due)
    else
      if added > now and a.limits.strict then a.hold = math.max(a.hold, added) end
      put_waiting(a, id, score, added)
    end
  end
  redis.call('HDEL', entries, id)
  redis.call('ZREM', waiting, id)
  redis.call('ZREM', delayed, id)
end

local carried, left, leased = 0, 0, nil
local answer = redis.call('HSCAN', entries, '0', 'COUNT', number)
for i = 1, #answer[2], 2 do
  local id = answer[2][i]
  local due = tonumber(redis.call('ZSCORE', delayed, id))
  local waits = due or redis.call('ZSCORE', waiting, id)
  if not waits and leased == nil then leased = is_leased() end
  if waits or not leased then
    carry(id, answer[2][i + 1], due)
    carried = carried + 1
  else
    left = left + 1
  end
end
if carried > 0 then
  place(a)
  close(a)
  save_accounts()
  ring()
  save_lane()
end
return { carried, left, carried > 0 and answer[1] ~= '0' and 1 or 0 }
