-- Extends the leases that a worker names, and gives back its other leases: their claims were never answered.
-- KEYS: root
-- ARGV: worker, lease in ms, highest request number given out, number of requests in flight, those requests,
--       then for each lease: token, slot, epoch
-- Returns {positions (from 0) of the leases that are lost, number given back}
-- Invariant: no lease gets an earlier expiry time; a claim in flight, which may still be answered, is not given back.
-- @include writable
-- @include lease
-- Among so many leases unnamed ones are searched.
local FIRST_TO_END = 100
local worker, lease_ms, issued, flying = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local in_flight, named, lost = {}, {}, {}
for i = 5, 4 + flying do in_flight[ARGV[i]] = true end
read_states(ARGV, 5 + flying, 3)
for i = 5 + flying, #ARGV, 3 do
  local token, slot, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = slot .. ':' .. token
  if find_lease(token, slot, epoch) then
    named[member] = true
    redis.call('ZADD', K.leases, 'GT', whole(now + lease_ms), member)
  else
    lost[#lost + 1] = (i - 5 - flying) / 3
  end
end
redis.call('PEXPIRE', K.worker .. worker, WORKER_TTL)
-- Named leases have just got a later expiry time, so unnamed ones come first in the order of expiry: they are found at
-- the latest at the extension after the next.
local tokens, slots = {}, {}
for _, member in ipairs(redis.call('ZRANGE', K.leases, 0, FIRST_TO_END - 1)) do
  if not named[member] then slots[#slots + 1], tokens[#tokens + 1] = string.match(member, '^(%d+):(.*)$') end
end
read_states(tokens, 1, 1)
local given_back = 0
for i, token in ipairs(tokens) do
  local queue = open(token)
  local lease = lease_in(queue, slots[i])
  if lease and lease.worker == worker and lease.request <= issued and not in_flight[whole(lease.request)] then
    end_lease(queue, slots[i], lease, false)
    requeue(queue, lease, lease.due, lease.deliveries)
    update(queue)
    given_back = given_back + 1
  end
end
if given_back > 0 then
  must_signal = true
  save()
end
return { lost, given_back }
