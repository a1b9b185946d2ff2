-- Settings of tenant queues: limits, the queue's own pause and the account's.
-- Gives: settings_of(token) → text; store_settings(token, before, settings) → whether the queue has state.
-- Invariant: default settings are not stored; settings outlive the queue's state; a change acts at once on entries that
-- wait.
-- @include queue
lane.configured = redis.call('EXISTS', K.limits)

local function settings_of(token)
  return redis.call('HGET', K.limits, token) or DEFAULT_SETTINGS
end

local function store_settings(token, before, settings)
  if settings == DEFAULT_SETTINGS then
    redis.call('HDEL', K.limits, token)
  else
    redis.call('HSET', K.limits, token, settings)
    lane.configured = 1
  end
  local queue = open(token)
  if not queue.standing then return false end
  if queue.vtime > lane.vtime then
    -- What the account has used was charged at the weight that it had before.
    local weight = tonumber(string.match(before, '^%d+') or 1)
    queue.vtime = lane.vtime + (queue.vtime - lane.vtime) * weight / queue.limits.weight
  end
  if not queue.limits.strict then queue.hold = 0 end
  update(queue)
  return true
end
