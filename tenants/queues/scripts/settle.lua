-- Ends leases and, in the same call, starts the next messages of the lane.
-- KEYS: root
-- ARGV: worker, request number, again, count (of messages to start), lease in ms, channel (these as in claim), number of
--       leases whose messages are done, then for each of those: token, slot, epoch; then for each other lease: token,
--       slot, epoch, outcome (retry | bury), delay in ms (retry), message (retry; '': unchanged), reason (bury)
-- Returns {ready accounts, ms until the next poll or -1, messages as claim returns them, the server's ms, number
--         settled, positions (from 0) of the leases that were lost}
-- Invariant: only the holder of the epoch settles; entry, slot, lease and charge change together; a request that is sent
-- again settles nothing twice and gets the same answer.
-- @include writable
-- @include start
-- @include answer
local worker, request, again, count, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local channel = ARGV[6]
local FIRST, DONE_FIELDS, FIELDS = 8, 3, 7
local first_other = FIRST + DONE_FIELDS * tonumber(ARGV[7])

-- `results`: for each lease 1 settled, 0 lost.
local function answer(results, claimed)
  local settled, lost = 0, {}
  for i = 1, #results do
    if string.byte(results, i) == 49 then settled = settled + 1 else lost[#lost + 1] = i - 1 end
  end
  local ready = signal_ready()
  return { ready, next_poll(ready), claimed, now, settled, lost }
end

if again == '1' then
  local results, claimed = kept_answer(worker, channel, request)
  if results then return answer(results, claimed) end
end

local function settle_done(queue, lease)
  if lease.due == 0 then
    redis.call('HDEL', K.entries .. queue.token, lease.id)
  else
    requeue(queue, lease, lease.due, 0)
  end
end

local function settle_other(queue, lease, outcome, delay, message, reason)
  if outcome == 'retry' then
    requeue(queue, lease, now + delay, 0, message ~= '' and message or nil)
  else
    bury_leased(queue, lease, reason)
  end
end

read_states(ARGV, FIRST, DONE_FIELDS, first_other - 1)
read_states(ARGV, first_other, FIELDS)
local results = {}
local i = FIRST
while i <= #ARGV do
  local is_done = i < first_other
  local lease, queue = find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if lease then
    end_lease(queue, ARGV[i + 1], lease, true)
    if is_done then
      settle_done(queue, lease)
    else
      settle_other(queue, lease, ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5], ARGV[i + 6])
    end
    update(queue)
  end
  results[#results + 1] = lease and '1' or '0'
  i = i + (is_done and DONE_FIELDS or FIELDS)
end
results = table.concat(results)
local claimed = count > 0 and start_some(worker, request, lease_ms, count) or {}
keep_answer(worker, channel, request, results, claimed)
save_queues()
if #claimed > 0 then must_signal = false end -- signal_ready() signals if more can start
save()
return answer(results, claimed)
