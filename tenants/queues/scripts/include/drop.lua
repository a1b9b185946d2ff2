-- Needs account.lua. Gives: drop(a, id): removes an entry that waits or is delayed; false when it does neither.
local function drop(a, id)
  if not take_waiting(a, id) then
    if redis.call('ZREM', K.delayed .. a.token, id) == 0 then return false end
    lane.delayed = lane.delayed - 1
  end
  redis.call('HDEL', K.entries .. a.token, id)
  return true
end

-- After drops: the first due time may be another one.
local function after_drops(a)
  local first = redis.call('ZRANGE', K.delayed .. a.token, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
  put(a)
end
