-- Removal of entries that wait or are delayed.
-- Gives: drop(queue, id), false if the entry does neither; drop_all(queue, ids) → the ids removed, written by save().
-- @include queue

-- Since when an entry waits, ms; later than now for a retry that holds its queue (strict ordering).
local function waits_since(queue, id)
  local _, added = decode_entry(redis.call('HGET', K.entries .. queue.token, id))
  return added or 0
end

local hold_dropped = false

local function drop(queue, id)
  if queue.hold > now and waits_since(queue, id) == queue.hold then hold_dropped = true end
  if not take_waiting(queue, id) and not take_delayed(queue, id) then return false end
  redis.call('HDEL', K.entries .. queue.token, id)
  return true
end

-- Another retry that holds the queue is searched among so many first entries. There is one only if the limits changed
-- while several ran, and its sequence is as old as theirs.
local HOLDERS = 100

local function drop_all(queue, ids)
  local removed = {}
  for _, id in ipairs(ids) do
    if drop(queue, id) then removed[#removed + 1] = id end
  end
  if #removed == 0 then return removed end
  if hold_dropped then
    queue.hold = 0
    for _, id in ipairs(redis.call('ZRANGE', K.waiting .. queue.token, 0, HOLDERS - 1)) do
      local since = waits_since(queue, id)
      if since > now then queue.hold = math.max(queue.hold, since) end
    end
  end
  queue.due = first_due(queue)
  update(queue)
  save()
  return removed
end
