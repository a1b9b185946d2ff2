-- Needs account.lua. Gives: drop(a, id): removes an entry that waits or is delayed; false when it does neither.
-- after_drops(a), once after the last of them.

-- Since when an entry waits, ms; later than now for a retry that holds its queue (strict ordering).
local function waits_since(a, id)
  local value = redis.call('HGET', K.entries .. a.token, id)
  local _, added = decode_entry(value or '')
  return added or 0
end

local function drop(a, id)
  if a.hold > now and waits_since(a, id) == a.hold then a.let_go = true end
  if not take_waiting(a, id) then
    if redis.call('ZREM', K.delayed .. a.token, id) == 0 then return false end
    lane.delayed = lane.delayed - 1
  end
  redis.call('HDEL', K.entries .. a.token, id)
  return true
end

-- So far from the front another retry that holds the queue is looked for. There is one only where the limits changed
-- while several ran, and its sequence is as old as theirs.
local HOLDERS = 100

-- After drops: the first due time may be another one, and so may the retry that holds the queue.
local function after_drops(a)
  if a.let_go then
    a.hold = 0
    for _, id in ipairs(redis.call('ZRANGE', K.waiting .. a.token, 0, HOLDERS - 1)) do
      local since = waits_since(a, id)
      if since > now then a.hold = math.max(a.hold, since) end
    end
  end
  local first = redis.call('ZRANGE', K.delayed .. a.token, 0, 0, 'WITHSCORES')
  a.due = tonumber(first[2]) or 0
  put(a)
end
