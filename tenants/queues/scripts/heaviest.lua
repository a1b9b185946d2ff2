-- The accounts of the lane that used the most seconds, or have the most waiting. Changes nothing.
-- KEYS: root
-- ARGV: 'seconds' | 'backlog', number, hours back (seconds; 0 is the current hour)
-- Returns {token, value, ...}
-- @include lane
local key = ARGV[1] == 'backlog' and K.backlog or K.spent .. (math.floor(now / 3600000) - tonumber(ARGV[3]))
return redis.call('ZREVRANGE', key, 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
