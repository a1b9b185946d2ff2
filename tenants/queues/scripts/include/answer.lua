-- Answers that are kept, so that a request that is sent again gets the same answer.
-- Gives: keep_answer(worker, channel, request, results, claimed); kept_answer(worker, channel, request) → its results
-- (nil: no answer to this request is kept) and the messages that it claimed.
-- Invariant: a channel has one unanswered request at a time, so its answer is kept until it has arrived. Only the names
-- of the claimed messages are kept: they are read from their leases, if this request still holds these.
-- @include lease

-- `results`: a text of digits.
local function keep_answer(worker, channel, request, results, claimed)
  local named = {}
  for i = 1, #claimed, CLAIM_FIELDS do
    named[#named + 1] = claimed[i]
    named[#named + 1] = claimed[i + 1]
  end
  local kept = request .. ':' .. results .. ':' .. cmsgpack.pack(named)
  if redis.call('HSET', K.worker .. worker, 'r' .. channel, kept) == 1 then
    -- Perhaps the hash is new; its worker may not live to extend anything.
    redis.call('PEXPIRE', K.worker .. worker, WORKER_TTL)
  end
end

local function kept_answer(worker, channel, request)
  local kept = redis.call('HGET', K.worker .. worker, 'r' .. channel)
  local made_by, results, named = string.match(kept or '', '^(%d+):(%d*):(.*)$')
  local claimed = {}
  if made_by ~= request then return nil, claimed end
  named = cmsgpack.unpack(named)
  for i = 1, #named, 2 do
    local token, slot = named[i], named[i + 1]
    local lease = lease_in(open(token), slot)
    if lease and lease.worker == worker and lease.request == tonumber(request) then
      local value = redis.call('HGET', K.entries .. token, lease.id)
      if value then add_claim(claimed, token, slot, whole(lease.epoch), lease.id, value) end
    end
  end
  return results, claimed
end
