-- Ends leases and, in the same call, starts the next messages of the lane.
-- KEYS: root
-- ARGV: worker, request number, again, count (of messages to start), lease in ms, channel (a number that no other
--       claim or settle of this worker uses until this one is answered), number of leases whose messages are done,
--       then for each of those: token, slot, epoch; then for each other lease: token, slot, epoch, outcome (retry |
--       bury), delay in ms (retry), message (retry: '' leaves it as it is), reason (bury)
-- Returns {accounts still ready, ms until the next look or -1, messages as claim tells them, the server's ms, number
--         settled, positions (from 0) of the leases that were lost}
-- Invariant: only the holder of the epoch settles; entry, slot, lease and charge change together; the same request
-- settles once, and is told the same again.
-- @include writable
-- @include lane
-- @include account
-- @include lease
-- @include start
-- @include answer
local worker, request, again, count, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local channel = ARGV[6]
local FIRST, DONE_FIELDS, FIELDS = 8, 3, 7
local first_other = FIRST + DONE_FIELDS * tonumber(ARGV[7])

-- What was settled, as a string of 1 and 0, and back.
local function told(results)
  local settled, lost = 0, {}
  for i = 1, #results do
    if string.byte(results, i) == 49 then settled = settled + 1 else lost[#lost + 1] = i - 1 end
  end
  return settled, lost
end

if again == '1' then
  local results, claimed = kept_answer(worker, channel, request)
  if results then
    local left = pass_on()
    return { left, next_look(left), claimed, now, told(results) }
  end
end

local function settle_done(a, slot, record)
  release(a, slot, record, true)
  if record.due == 0 then
    redis.call('HDEL', K.entries .. a.token, record.id)
  else
    put_back(a, record, record.due, 0)
  end
  put(a)
end

local function settle_other(a, slot, record, outcome, delay, message, reason)
  release(a, slot, record, true)
  if outcome == 'retry' then
    put_back(a, record, now + delay, 0, message ~= '' and message or nil)
  else
    local value = redis.call('HGET', K.entries .. a.token, record.id)
    local score, _, _, start = decode_entry(value or '')
    if score then bury(a, record.id, score, reason, string.sub(value, start)) else a.damaged = true end
  end
  put(a)
end

open_soon(ARGV, FIRST, DONE_FIELDS, first_other - 1)
open_soon(ARGV, first_other, FIELDS)
local results = {}
for i = FIRST, first_other - 1, DONE_FIELDS do
  local record, a = find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if record then settle_done(a, ARGV[i + 1], record) end
  results[#results + 1] = record and '1' or '0'
end
for i = first_other, #ARGV, FIELDS do
  local record, a = find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if record then
    settle_other(a, ARGV[i + 1], record, ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5], ARGV[i + 6])
  end
  results[#results + 1] = record and '1' or '0'
end
results = table.concat(results)
local claimed = {}
if count > 0 then
  claimed = start_some(worker, request, lease_ms, count)
end
keep_answer(worker, channel, request, results, claimed)
save_leases()
save_accounts()
if wake and #claimed == 0 then ring() end
local left = pass_on()
save_lane()
return { left, next_look(left), claimed, now, told(results) }
