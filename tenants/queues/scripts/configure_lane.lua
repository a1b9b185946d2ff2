-- Changes the lane's own settings.
-- KEYS: root
-- ARGV: field (paused | global), value (ms until, 0, -1 | most leases, 0 no bound)
-- Returns 1.
-- @include lane
redis.call('HSET', R, ARGV[1], ARGV[2])
ring()
return 1
