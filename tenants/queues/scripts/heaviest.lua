-- The accounts of the lane that used the most seconds, or have the most waiting. Changes nothing.
-- KEYS: root
-- ARGV: 'seconds' | 'backlog', number, hours back (seconds; 0 is the current hour), how many to skip (0)
-- Returns {token, value, ...}
-- @include lane
local key = ARGV[1] == 'backlog' and K.backlog or K.spent .. (math.floor(now / 3600000) - tonumber(ARGV[3]))
local first = tonumber(ARGV[4] or 0)
return redis.call('ZREVRANGE', key, first, first + tonumber(ARGV[2]) - 1, 'WITHSCORES')
