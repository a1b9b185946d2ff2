-- Ends expired leases. Claims do that too; this script does it without claiming.
-- KEYS: root
-- ARGV: most
-- Returns the number ended.
-- Invariant: each lease is ended once, by the first script that finds it expired.
-- @include writable
-- @include start
local rescued = rescue_some(tonumber(ARGV[1]))
save()
signal_ready()
return rescued
