-- Extends the leases that a worker names; gives back those that the server holds for it and that it does not name.
-- KEYS: root
-- ARGV: worker, lease in ms, highest request number given out, number of requests in flight, those requests,
--       then for each lease: token, slot, epoch
-- Returns {positions (from 0) of the leases that are lost, number given back}
-- Invariant: an expiry time is never brought forward; a claim whose answer may still be on its way is left alone.
-- @include writable
-- @include lane
-- @include account
-- @include lease
-- So many are looked at for those that are forgotten.
local FIRST_TO_END = 100
local worker, lease_ms, issued, flying = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local in_flight, named, lost = {}, {}, {}
for i = 5, 4 + flying do in_flight[ARGV[i]] = true end
open_soon(ARGV, 5 + flying, 3)
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
-- What is named ends later than what was not extended for a while. So forgotten ones come to the front, where they are
-- found at the latest one extension after the one that came too early for it.
local tokens, slots = {}, {}
for _, member in ipairs(redis.call('ZRANGE', K.leases, 0, FIRST_TO_END - 1)) do
  if not named[member] then slots[#slots + 1], tokens[#tokens + 1] = string.match(member, '^(%d+):(.*)$') end
end
open_soon(tokens, 1, 1)
local given_back = 0
for i, token in ipairs(tokens) do
  local a = open(token)
  local record = lease_in(a, slots[i])
  if record and record.worker == worker and record.request <= issued and not in_flight[whole(record.request)] then
    release(a, slots[i], record, false)
    put_back(a, record, record.due, record.deliveries)
    put(a)
    given_back = given_back + 1
  end
end
if given_back > 0 then
  save_leases()
  save_accounts()
  ring()
  save_lane()
end
return { lost, given_back }
