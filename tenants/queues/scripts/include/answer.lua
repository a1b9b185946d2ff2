-- Needs start.lua. Gives: recover(worker, request): the messages that an earlier try of this very request claimed.
-- Invariant: a request's claims are told by the leases themselves, so the same request gives the same answer for as
-- long as they last, and no copy of an answer has to be kept.
local function recover(worker, request)
  local claimed = {}
  local held = redis.call('HGETALL', K.worker .. worker)
  for i = 1, #held, 2 do
    local slot, token = string.match(held[i], '^(%d+):(.*)$')
    local epoch, made_by = string.match(held[i + 1], '^(%d+):(%d+)$')
    if slot and made_by == request then
      local record = (find_lease(token, slot, epoch))
      local value = record and redis.call('HGET', K.entries .. token, record.id)
      if value then tell_claim(claimed, token, slot, epoch, record.id, value) end
    end
  end
  return claimed
end
