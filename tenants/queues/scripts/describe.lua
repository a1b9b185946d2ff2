-- What tenant queues hold, and their standing. Changes nothing.
-- KEYS: root
-- ARGV: tokens
-- Returns {the server's ms, lane paused, for each token: false, or {waiting, delayed, active, arrival of the next
--         message in ms or 0, last used ms, standing, next start ms or -1, settings or '', mean µs, first due ms}}
-- @include queue
local out = { now, tostring(lane.paused) }
for _, token in ipairs(ARGV) do
  local queue = open(token)
  local settings = redis.call('HGET', K.limits, token)
  if not queue.standing and not settings then
    out[#out + 1] = false
  else
    local at = start_at(queue)
    out[#out + 1] = { redis.call('ZCARD', K.waiting .. queue.token), redis.call('ZCARD', K.delayed .. queue.token), running(queue),
      redis.call('ZSCORE', K.since, token) or '0', whole(queue.used_at), queue.standing or '-', at, settings or '',
      whole(queue.estimate), whole(queue.due) }
  end
end
return out
