-- Deletes the state of tenant queues that are empty and unused for a time.
-- KEYS: root
-- ARGV: idle in ms, most, dry (1: only lists them)
-- Returns tokens.
-- Invariant: the script itself checks that a queue is empty, so the reaper loses no enqueue. A queue whose rate limit
-- still counts recent starts stays, because these would be forgotten with its state.
-- @include writable
-- @include queue
local idle, most, dry = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local reaped = {}
local tokens = redis.call('ZRANGEBYSCORE', K.idle, '-inf', now - idle, 'LIMIT', 0, most)
read_states(tokens, 1, 1)
for _, token in ipairs(tokens) do
  local queue = open(token)
  local counts_starts = queue.limits.rate_limit > 0 and queue.rate_at > now
  if not counts_starts and (dry or delete_queue(queue)) then
    reaped[#reaped + 1] = token
  elseif not dry then
    -- It counts starts, or it is not empty and does not belong to the idle ones.
    place(queue)
    mark_changed(queue)
    save()
    if queue.standing == 'i' then redis.call('ZADD', K.idle, now, token) else redis.call('ZREM', K.idle, token) end
  end
end
return reaped
