-- Ends leases before their time, because their holders are known to be dead: each entry goes back as after an expiry.
-- KEYS: root
-- ARGV: for each lease: token, slot, epoch
-- Returns the number ended.
-- Invariant: only the very lease that was named is ended; one that was settled or taken anew meanwhile is left alone.
-- @include writable
-- @include lane
-- @include account
-- @include lease
-- @include start
local ended = 0
open_soon(ARGV, 1, 3)
for i = 1, #ARGV, 3 do
  if find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
    rescue(ARGV[i + 1] .. ':' .. ARGV[i])
    ended = ended + 1
  end
end
save_leases()
save_accounts()
pass_on()
save_lane()
return ended
