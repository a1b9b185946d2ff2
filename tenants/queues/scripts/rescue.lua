-- Ends expired leases; claims do the same, this verb is for whoever wants it done without claiming.
-- KEYS: root
-- ARGV: most
-- Returns the number ended.
-- Invariant: whoever comes first ends a lease, and nobody ends it twice.
-- @include writable
-- @include lane
-- @include account
-- @include lease
-- @include start
local ended = rescue_some(tonumber(ARGV[1]))
save_leases()
save_accounts()
pass_on()
save_lane()
return ended
