-- The lane's totals, each in constant time. Changes nothing.
-- KEYS: root
-- Returns {the server's ms, waiting, delayed, active, ready accounts, tenant queues, idle ones, arrival of the oldest
--         message in ms or 0, paused, global concurrency, buried, messages started, ms from arrival to start summed}
-- @include lane
local oldest = redis.call('ZRANGE', K.since, 0, 0, 'WITHSCORES')
return { now, lane.waiting, lane.delayed, redis.call('ZCARD', K.leases), redis.call('ZCARD', K.ready),
  redis.call('ZCARD', K.names), redis.call('ZCARD', K.idle), oldest[2] or '0', tostring(lane.paused), lane.global,
  redis.call('ZCARD', K.buried), lane.starts, lane.dwelt }
