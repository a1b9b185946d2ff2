-- Checks, and heals, a page of tenant queues and of leases.
-- KEYS: root
-- ARGV: what (queues | leases), where to go on (a token, '' from the first | position), number
-- Returns {where to go on ('' at the end), violations: {kind, token, detail}, ...}
-- Invariants: every queue stands where its contents say, and in no other set; entries held = waiting + delayed +
-- leased; leases in the zset = slots; slots are no more than were allowed when they were taken.
-- @include lane
-- @include account
-- @include lease
local found = {}
local function violation(kind, token, detail) found[#found + 1] = { kind, token, detail } end

-- Returns the number of slots taken.
local function check_slots(a)
  local others = redis.call('HLEN', K.slots .. a.token)
  if a.others ~= others then
    violation('slots', a.token, a.others .. ' counted, ' .. others .. ' taken')
    a.others = others
  end
  local slots = slots_of(a)
  for _, slot in ipairs(slots) do
    local member = slot .. ':' .. a.token
    if not redis.call('ZSCORE', K.leases, member) then
      violation('slot_without_lease', a.token, slot)
      redis.call('ZADD', K.leases, now, member)
    end
    local record = lease_in(a, slot)
    if redis.call('HEXISTS', K.entries .. a.token, record.id) == 0 then
      violation('lease_without_entry', a.token, record.id)
      drop_lease(a, slot)
      redis.call('ZREM', K.leases, member)
    end
  end
  return #slots
end

local function check_queue(token)
  local a = open(token)
  local held = redis.call('HLEN', K.entries .. a.token)
  local waiting, delayed = redis.call('ZCARD', K.waiting .. a.token), redis.call('ZCARD', K.delayed .. a.token)
  local leased = check_slots(a)
  if a.count ~= waiting then
    violation('waiting', token, a.count .. ' counted, ' .. waiting .. ' wait')
    a.count = waiting
  end
  if held ~= waiting + delayed + leased then
    violation('entries', token, held .. ' held, ' .. waiting .. '+' .. delayed .. '+' .. leased .. ' placed')
  end
  local stands = a.stands
  if not stands then violation('no_state', token, '') end
  for key, set in pairs({ [K.ready] = 'ready', [K.timers] = 'timers', [K.idle] = 'idle' }) do
    local letter = string.sub(set, 1, 1)
    local present = redis.call('ZSCORE', key, token)
    if present and stands ~= letter then
      violation('stands_twice', token, set)
      redis.call('ZREM', key, token)
    elseif not present and stands == letter then
      violation('stands_nowhere', token, set)
      a.stands, a.stood = 'n', 'n' -- so that placing it anew writes it everywhere
    end
  end
  a.head_changed = true
  local placed = place(a)
  -- A time that has come since the last look is no violation: the next claim looks.
  if stands and placed ~= stands and not (stands == 't' and placed == 'r') and a.due == a.due_read then
    violation('misplaced', token, stands .. ' instead of ' .. placed)
  end
  close(a)
  if placed == 'r' then ring() end
end

local go_on = ''
if ARGV[1] == 'queues' then
  local after = ARGV[2] == '' and '-' or '(' .. ARGV[2]
  local tokens = redis.call('ZRANGEBYLEX', K.names, after, '+', 'LIMIT', 0, tonumber(ARGV[3]))
  open_soon(tokens, 1, 1)
  for _, token in ipairs(tokens) do check_queue(token) end
  save_accounts()
  if #tokens == tonumber(ARGV[3]) then go_on = tokens[#tokens] end
else
  local from, number = tonumber(ARGV[2]) or 0, tonumber(ARGV[3])
  local members = redis.call('ZRANGE', K.leases, from, from + number - 1)
  local removed = 0
  for _, member in ipairs(members) do
    local slot, token = string.match(member, '^(%d+):(.*)$')
    if not lease_in(open(token), slot) then
      violation('lease_without_slot', token, slot)
      redis.call('ZREM', K.leases, member)
      removed = removed + 1
    end
  end
  if #members == number then go_on = whole(from + number - removed) end
end
save_lane()
return { go_on, unpack(found) }
