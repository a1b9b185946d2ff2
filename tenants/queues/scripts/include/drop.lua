-- Needs account.lua. Gives: drop(a, id): removes an entry that waits or is delayed; false when it does neither.
local function drop(a, id)
  if redis.call('ZREM', a.waiting, id) == 1 then
    lane.waiting = lane.waiting - 1
  elseif redis.call('ZREM', a.delayed, id) == 1 then
    lane.delayed = lane.delayed - 1
  else
    return false
  end
  redis.call('HDEL', a.entries, id)
  a.head_changed = true
  return true
end

-- After drops: the first due time may be another one.
local function after_drops(a)
  local first = redis.call('ZRANGE', a.delayed, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
  put(a)
end
