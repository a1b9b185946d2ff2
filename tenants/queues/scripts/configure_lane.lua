-- Changes the lane's own settings.
-- KEYS: root
-- ARGV: field (paused | global), value (ms until, 0, -1 | most leases, 0 no bound)
-- Returns 1.
-- @include writable
-- @include lane
lane[ARGV[1]] = tonumber(ARGV[2])
save_lane()
signal()
return 1
