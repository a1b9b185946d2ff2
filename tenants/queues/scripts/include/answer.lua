-- Needs lease.lua. Gives: keep_answer(worker, channel, request, results, claimed) and kept_answer(worker, channel,
-- request): the results, or nil where no answer to this very request is kept, and the messages that it started.
-- Invariant: a channel has one request at a time, so what is kept lasts until its answer has come. Of the messages only
-- names are kept: each is told as its lease says, and for as long as this request's lease lasts.

-- `results`: digits.
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
    local record = lease_in(open(token), slot)
    if record and record.worker == worker and record.request == tonumber(request) then
      local value = redis.call('HGET', K.entries .. token, record.id)
      if value then tell_claim(claimed, token, slot, whole(record.epoch), record.id, value) end
    end
  end
  return results, claimed
end
