-- Ends leases and, in the same call, starts the next messages of the lane.
-- KEYS: root
-- ARGV: worker, request number, again, count (of messages to start), lease in ms, channel (a number that no other
--       settle of this worker uses until this one is answered), then for each lease: token, slot, epoch,
--       outcome (done | retry | bury), delay in ms (retry), message (retry: '' leaves it as it is), reason (bury)
-- Returns {accounts still ready, ms until the next look or -1, messages, the server's ms, number settled,
--         positions (from 0) of the leases that were lost}
-- Invariant: only the holder of the epoch settles; entry, slot, lease and charge change together; the same request
-- settles once, and is told the same again.
-- @include lane
-- @include account
-- @include lease
-- @include start
-- @include answer
local worker, request, again, count, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local mark = 'r' .. ARGV[6]
local FIELDS = 7

-- What was settled, as a string of 1 and 0, and back.
local function told(results)
  local settled, lost = 0, {}
  for i = 1, #results do
    if string.byte(results, i) == 49 then settled = settled + 1 else lost[#lost + 1] = i - 1 end
  end
  return settled, lost
end

if again == '1' then
  local made_by, results = string.match(redis.call('HGET', K.worker .. worker, mark) or '', '^(%d+):(%d+)$')
  if made_by == request then
    local left = pass_on()
    return { left, next_look(left), recover(worker, request), now, told(results) }
  end
end

local function settle(a, slot, record, outcome, delay, message, reason)
  release(a, slot, record, true)
  if outcome == 'done' and record.due == 0 then
    redis.call('HDEL', K.entries .. a.token, record.id)
  elseif outcome == 'retry' then
    put_back(a, record, now + delay, 0, message ~= '' and message or nil)
  elseif outcome == 'bury' then
    local value = redis.call('HGET', K.entries .. a.token, record.id)
    if value then
      local score, _, _, start = decode_entry(value)
      bury(a, record.id, score, reason, string.sub(value, start))
    end
  else
    put_back(a, record, record.due, 0)
  end
  put(a)
end

open_soon(ARGV, 7, FIELDS)
local results = {}
for i = 7, #ARGV, FIELDS do
  local record, a = find_lease(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if record then
    settle(a, ARGV[i + 1], record, ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5], ARGV[i + 6])
  end
  results[#results + 1] = record and '1' or '0'
end
results = table.concat(results)
tell_worker(worker, mark, request .. ':' .. results)
local claimed = {}
if count > 0 then
  claimed = start_some(worker, request, lease_ms, count)
end
save_leases()
save_accounts()
if wake and #claimed == 0 then ring() end
local left = pass_on()
save_lane()
return { left, next_look(left), claimed, now, told(results) }
