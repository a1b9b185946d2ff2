-- Ends leases whose messages were never started: they wait again where they stood, and nothing is charged.
-- KEYS: root
-- ARGV: for each lease: token, slot, epoch
-- Returns the number given back.
-- Invariant: rate token and charge go back with the message, and no delivery is counted.
-- @include writable
-- @include lane
-- @include account
-- @include lease
local given_back = 0
open_soon(ARGV, 1, 3)
for i = 1, #ARGV, 3 do
  local record, a = find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if record then
    release(a, ARGV[i + 1], record, false)
    put_back(a, record, 0, record.deliveries)
    put(a)
    given_back = given_back + 1
  end
end
save_leases()
save_accounts()
if wake then ring() end
save_lane()
return given_back
