-- What a tenant queue holds and where it stands. Changes nothing.
-- KEYS: root
-- ARGV: tokens
-- Returns {the server's ms, lane paused, for each token: false, or {waiting, delayed, active, arrival of the next
--         message in ms or 0, last used ms, stands, next start ms or -1, settings or '', mean µs, first due ms}}
-- @include lane
-- @include account
local out = { now, tostring(lane.paused) }
for _, token in ipairs(ARGV) do
  local a = open(token)
  local settings = redis.call('HGET', K.limits, token)
  if not a.stands and not settings then
    out[#out + 1] = false
  else
    local at = start_at(a)
    out[#out + 1] = { redis.call('ZCARD', K.waiting .. a.token), redis.call('ZCARD', K.delayed .. a.token), running(a),
      redis.call('ZSCORE', K.since, token) or '0', whole(a.used_at), a.stands or '-', at, settings or '',
      whole(a.estimate), whole(a.due) }
  end
end
return out
