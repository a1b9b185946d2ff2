-- Ends a lease and, in the same call, starts the next message of the lane.
-- KEYS: root
-- ARGV: worker, request number, again, count (of messages to start, 0 or 1), lease in ms,
--       thread (number of the caller's thread), token, slot, epoch,
--       outcome (done | retry | bury), delay in ms (retry), message (retry: '' leaves it as it is), reason (bury)
-- Returns {accounts still ready, ms until the next look or -1, messages, the server's ms, 1 if settled, 0 if the
--         lease was lost}
-- Invariant: only the holder of the epoch settles; entry, slot, lease and charge change together.
-- @include lane
-- @include account
-- @include lease
-- @include start
-- @include answer
local worker, request, again, count, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local mark, token, slot, epoch = 'r' .. ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local outcome, delay, message, reason = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]

if again == '1' then
  local told = redis.call('HGET', K.worker .. worker, mark)
  local made_by, result = string.match(told or '', '^(%d+):(%d)$')
  if made_by == request then
    local left = pass_on()
    return { left, next_look(left), recover(worker, request), now, tonumber(result) }
  end
end

local record = find_lease(token, slot, epoch)
local settled = 0
if record then
  settled = 1
  tell_worker(mark, request .. ':1')
  local a = open(token)
  release(a, slot, record, true)
  if outcome == 'retry' then
    put_back(a, record, now + delay, 0, message ~= '' and message or nil)
  elseif outcome == 'bury' then
    local value = redis.call('HGET', a.entries, record.id)
    a.hold = 0
    if value then
      local score, _, _, start = decode_entry(value)
      bury(a, record.id, score, reason, string.sub(value, start))
    end
  elseif record.due > 0 then
    put_back(a, record, record.due, 0)
  else
    redis.call('HDEL', a.entries, record.id)
  end
  put(a)
else
  tell_worker(mark, request .. ':0')
end
local claimed = {}
if count > 0 then
  claimed = start_some(worker, request, lease_ms, count)
end
if wake and #claimed == 0 then ring() end
save_worker(worker)
local left = pass_on()
save_lane()
return { left, next_look(left), claimed, now, settled }
