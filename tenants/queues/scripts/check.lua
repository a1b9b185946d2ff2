-- Checks and repairs a page of a lane: of its damaged tenant queues, its own keys, its leases, its tenant queues, the
-- entries of one of them, its buried messages, or its totals.
-- KEYS: root
-- ARGV: part (damaged | lane | leases | queues | tokens | entries | buried | totals), where to continue ('' from the
--       first; queues: a token; leases: a position; buried: a cursor; entries: kind:cursor), number, lease in ms, tokens
--       (entries: one; tokens: those to check)
-- Returns {where to continue ('' at the end), tokens whose entries are too many for this page, violations: {kind, token,
--         detail}, ...}
-- Invariants: those of the parts, and: leases in the zset = slots; the lane's totals are the sums of its queues.
-- @include writable
-- @include repair
local what, after, number, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
-- Entries that one page checks.
local BUDGET = 1000
-- The totals of a lane with more tenant queues are not counted.
local COUNTED_QUEUES = 1000
local go_on, large = '', {}

local function check_tokens(tokens, from)
  local budget = BUDGET
  read_states(tokens, from, 1)
  for i = from, #tokens do
    local checked = repair_queue(tokens[i], lease_ms, math.max(budget, 0))
    if checked then budget = budget - checked else large[#large + 1] = tokens[i] end
  end
end

local function check_damaged()
  local tokens = redis.call('ZRANGE', K.damaged, 0, number - 1)
  check_tokens(tokens, 1)
  for _, token in ipairs(tokens) do
    if not open(token).damaged then violation('damaged', token, 'a script found keys of it that disagree') end
  end
end

local function check_lane()
  for _, key in ipairs({ K.ready, K.timers, K.idle, K.names, K.leases, K.since, K.backlog, K.damaged, K.buried }) do
    repair_type(key, 'zset', '-')
  end
  repair_type(K.limits, 'hash', '-')
  repair_type(K.buried_messages, 'hash', '-')
  repair_type(K.bell, 'list', '-')
  if redis.call('EXISTS', R) == 1 and #stored ~= LANE_SIZE or not stored and redis.call('EXISTS', K.names) == 1 then
    violation('lane_state', '-', 'it was lost, or could not be read')
  end
  if lane.configured == 0 and redis.call('EXISTS', K.limits) == 1 then
    violation('settings', '-', 'there are some, and the lane had none recorded')
    lane.configured = 1
  end
end

local function check_leases()
  local from = tonumber(after) or 0
  local members = redis.call('ZRANGE', K.leases, from, from + number - 1)
  local removed = 0
  for _, member in ipairs(members) do
    local slot, token = string.match(member, '^(%d+):(.*)$')
    local queue = token and open(token)
    if queue and not lease_in(queue, slot) then
      violation('lease_without_slot', token, slot)
      if tonumber(redis.call('ZSCORE', K.leases, member)) > now then
        keep_lease(queue, slot, lost_lease())
        queue.damaged = true
        place(queue)
        mark_changed(queue)
      else
        free_lost_slot(queue, slot, member)
        removed = removed + 1
      end
    end
  end
  if #members == number then go_on = whole(from + number - removed) end
end

-- Each stored message must be in the list of buried messages, and each listed one must be stored.
local function check_buried()
  local answer = redis.call('HSCAN', K.buried_messages, after == '' and '0' or after, 'COUNT', number)
  for i = 1, #answer[2], 2 do
    local buried_id = answer[2][i]
    if not redis.call('ZSCORE', K.buried, buried_id) then
      violation('unlisted_grave', '-', buried_id)
      redis.call('ZADD', K.buried, floor((tonumber(buried_id) or now_us) / 1000), buried_id)
    end
  end
  for _, buried_id in ipairs(redis.call('ZRANGE', K.buried, 0, number - 1)) do
    if redis.call('HEXISTS', K.buried_messages, buried_id) == 0 then
      violation('empty_burial', '-', buried_id)
      redis.call('ZREM', K.buried, buried_id)
    end
  end
  if answer[1] ~= '0' then go_on = answer[1] end
end

local function check_totals()
  if redis.call('ZCARD', K.names) > COUNTED_QUEUES then return end
  local waiting, delayed = 0, 0
  for _, token in ipairs(redis.call('ZRANGE', K.names, 0, -1)) do
    waiting = waiting + redis.call('ZCARD', K.waiting .. token)
    delayed = delayed + redis.call('ZCARD', K.delayed .. token)
  end
  if lane.waiting ~= waiting or lane.delayed ~= delayed then
    violation('totals', '-', whole(lane.waiting) .. '+' .. whole(lane.delayed) .. ' counted, ' .. waiting .. '+' ..
      delayed .. ' held')
    lane.waiting, lane.delayed = waiting, delayed
  end
end

if what == 'damaged' then
  check_damaged()
elseif what == 'lane' then
  check_lane()
elseif what == 'leases' then
  check_leases()
elseif what == 'queues' then
  local tokens = redis.call('ZRANGEBYLEX', K.names, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, number)
  check_tokens(tokens, 1)
  if #tokens == number then go_on = tokens[#tokens] end
elseif what == 'tokens' then
  check_tokens(ARGV, 5)
elseif what == 'entries' then
  local queue = open(ARGV[5])
  local kind, cursor = string.match(after, '^(%l+):(%d+)$')
  if queue.standing then
    cursor = repair_part(queue, kind, cursor, number)
    local following = { waiting = 'delayed:0', delayed = 'entries:0', entries = '' }
    go_on = cursor == '0' and following[kind] or kind .. ':' .. cursor
    recount(queue)
    update(queue)
  end
elseif what == 'buried' then
  check_buried()
else
  check_totals()
end
save()
return { go_on, large, unpack(found) }
