-- Starts up to `count` messages of the lane, for the first ready accounts.
-- KEYS: root
-- ARGV: worker, request number, again (1: an answer to this request may have been lost), count, lease in ms, channel (a
--       number that no other claim or settle of this worker uses until this one is answered)
-- Returns {ready accounts, ms until the next poll or -1, messages, the server's ms}. The messages are one list, with
--         token, slot, epoch, entry id and score:added:deliveries:message of each.
-- Invariant: message and slot are taken together; no queue runs more messages than its concurrency.
-- @include writable
-- @include start
-- @include answer
local worker, request, again, count, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local channel = ARGV[6]

local claimed = again == '1' and select(2, kept_answer(worker, channel, request)) or {}
if #claimed == 0 then
  lane.polled = 0 -- a claim always polls
  claimed = start_some(worker, request, lease_ms, count)
  if #claimed > 0 then keep_answer(worker, channel, request, '', claimed) end
end
redis.call('PEXPIRE', K.worker .. worker, WORKER_TTL)
save()
local ready = signal_ready()
return { ready, next_poll(ready), claimed, now }
