-- Moves messages of one tenant queue from the keys of layout 1 to this layout, a part at a time.
-- KEYS: root
-- ARGV: root in layout 1, token, number
-- Returns {messages moved, messages left because their lease has not ended, 1 if there may be more}
-- Invariant: a message is moved in one script, so it is always in exactly one of the two layouts; one that a worker of
-- the earlier release may still run is left until its lease ends.
-- @include writable
-- @include lease
local old, token, number = ARGV[1], ARGV[2], ARGV[3]
local entries, waiting, delayed = old .. ':entries:' .. token, old .. ':waiting:' .. token, old .. ':delayed:' .. token
local queue = open(token)

local function is_leased()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', old .. ':leases', now, '+inf')) do
    if string.match(member, '^%d+:(.*)$') == token then return true end
  end
  return false
end

local function carry(id, value, due)
  local score, added = decode_entry(value)
  if not score then
    bury(queue, id, 'unreadable', value)
  elseif redis.call('HSETNX', K.entries .. token, id, value) == 1 then
    if due then
      put_delayed(queue, id, due)
    else
      if added > now and queue.limits.strict then queue.hold = math.max(queue.hold, added) end
      put_waiting(queue, id, score, added)
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
  place(queue)
  mark_changed(queue)
  must_signal = true
  save()
end
return { carried, left, carried > 0 and answer[1] ~= '0' and 1 or 0 }
