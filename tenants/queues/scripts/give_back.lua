-- Ends leases whose messages were never started: they wait again at their old places.
-- KEYS: root
-- ARGV: for each lease: token, slot, epoch
-- Returns the number ended.
-- Invariant: rate limit and charge are undone, and no delivery is counted.
-- @include writable
-- @include lease
local given_back = 0
read_states(ARGV, 1, 3)
for i = 1, #ARGV, 3 do
  local lease, queue = find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if lease then
    end_lease(queue, ARGV[i + 1], lease, false)
    requeue(queue, lease, 0, lease.deliveries)
    update(queue)
    given_back = given_back + 1
  end
end
save()
return given_back
