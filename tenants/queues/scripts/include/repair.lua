-- Repairs tenant queues whose keys were lost, or do not agree. Needs lease.lua. Gives: found (the violations, each
-- repaired when the script ends), violation(kind, token, detail), repair_queue(token, lease_ms, budget), leased_ids(a),
-- repair_entry(a, id, value, leased), repair_part(a, kind, cursor, count).
-- Invariant: after a repair each entry stands in exactly one of waiting, delayed and a lease; a message whose bytes are
-- there is never dropped; a slot that somebody may still use stays taken until its lease ends.
local found = {}
local function violation(kind, token, detail) found[#found + 1] = { kind, token, detail } end

-- A key of another type raises an error wherever it is used.
local function repair_type(key, kind, token)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then
    redis.call('UNLINK', key)
    violation('wrong_type', token, is .. ' instead of ' .. kind)
  end
end

local function repair_counts(a)
  local waiting, due, others = a.count, a.due, a.others
  recount(a)
  if a.count ~= waiting then violation('waiting', a.token, waiting .. ' counted, ' .. a.count .. ' wait') end
  if a.due ~= due then violation('delayed', a.token, whole(due) .. ' known, the first is due at ' .. whole(a.due)) end
  if a.others ~= others then violation('slots', a.token, others .. ' counted, ' .. a.others .. ' taken') end
end

local function repair_slots(a, lease_ms)
  for _, slot in ipairs(slots_of(a)) do
    local member = slot .. ':' .. a.token
    local expires = redis.call('ZSCORE', K.leases, member)
    if not lease_in(a, slot) then
      violation('unreadable_slot', a.token, slot)
      if expires then keep_lease(a, slot, lost_lease()) else drop_lease(a, slot) end
    elseif not expires then
      violation('slot_without_lease', a.token, slot)
      -- Its worker, if it lives, extends it within that time.
      redis.call('ZADD', K.leases, whole(now + lease_ms), member)
    end
  end
end

-- Entry id → true for each that is leased; '' → true where it is not known which one a lease has.
local function leased_ids(a)
  local leased = {}
  for _, slot in ipairs(slots_of(a)) do
    local record = lease_in(a, slot)
    leased[record and record.id or ''] = true
  end
  return leased
end

local function take_delayed(a, id)
  lane.delayed = lane.delayed - redis.call('ZREM', K.delayed .. a.token, id)
end

-- An entry in no place waits again, or is delayed until its own time.
local function place_entry(a, id, score, added)
  if added > now and not a.limits.strict then
    put_delayed(a, id, added)
  else
    if added > now then a.hold = math.max(a.hold, added) end
    put_waiting(a, id, score, added)
  end
end

local function repair_entry(a, id, value, leased)
  local score, added = decode_entry(value)
  local waits = redis.call('ZSCORE', K.waiting .. a.token, id)
  local delayed = redis.call('ZSCORE', K.delayed .. a.token, id)
  if not score then
    violation('unreadable_entry', a.token, id)
    take_waiting(a, id)
    take_delayed(a, id)
    bury(a, id, 0, 'unreadable', value)
  elseif leased[id] then
    if not waits and not delayed then return end
    violation('leased_and_waiting', a.token, id)
    take_waiting(a, id)
    take_delayed(a, id)
  elseif waits and delayed then
    violation('in_two_places', a.token, id)
    if added > now and not a.limits.strict then take_waiting(a, id) else take_delayed(a, id) end
  elseif not waits and not delayed and not leased[''] then
    violation('in_no_place', a.token, id)
    place_entry(a, id, score, added)
  end
end

-- A part of what one key of the queue holds: entries (is each in one place?), waiting or delayed (has each a message?).
-- Returns the cursor of the next part, '0' at the end.
local function repair_part(a, kind, cursor, count)
  if kind == 'entries' then
    local answer = redis.call('HSCAN', K.entries .. a.token, cursor, 'COUNT', count)
    local leased = leased_ids(a)
    for i = 1, #answer[2], 2 do repair_entry(a, answer[2][i], answer[2][i + 1], leased) end
    return answer[1]
  end
  local key = (kind == 'waiting' and K.waiting or K.delayed) .. a.token
  local answer = redis.call('ZSCAN', key, cursor, 'COUNT', count)
  for i = 1, #answer[2], 2 do
    local id = answer[2][i]
    if redis.call('HEXISTS', K.entries .. a.token, id) == 0 then
      violation('no_message', a.token, id)
      if kind == 'waiting' then take_waiting(a, id) else take_delayed(a, id) end
    end
  end
  return answer[1]
end

-- Where the queue stands, and in no other set.
local function repair_sets(a)
  local token, stands = a.token, a.stands
  if stands ~= 'n' and not redis.call('ZSCORE', K.names, token) then
    violation('nameless', token, '')
    redis.call('ZADD', K.names, 0, token)
  end
  for key, set in pairs({ [K.ready] = 'ready', [K.timers] = 'timers', [K.idle] = 'idle' }) do
    local letter = string.sub(set, 1, 1)
    local present = redis.call('ZSCORE', key, token)
    if present and stands ~= letter then
      if stands ~= 'n' then violation('stands_twice', token, set) end
      redis.call('ZREM', key, token)
    elseif not present and stands == letter then
      violation('stands_nowhere', token, set)
      a.stood = 'x' -- in no set: placing it writes it
    end
  end
end

-- Places it where its contents say. `clean`: nothing else was found.
local function repair_standing(a, clean)
  local stands = a.stands
  local placed = place(a)
  -- A time that has come since the last look is no violation: the next claim looks.
  if clean and placed ~= stands and not (stands == 't' and placed == 'r') and a.due == a.due_read then
    violation('misplaced', a.token, stands .. ' instead of ' .. placed)
  end
  -- A lane whose state is an old one has a clock that is far behind those who wait.
  if placed == 'r' and running(a) == 0 and a.v > lane.v + MOST_DEBT then lane.v = a.v - MOST_DEBT end
  close(a)
  if placed == 'r' then ring() end
end

-- Repairs one queue. Returns how many of its entries were looked at; nil: they are more than `budget`, and
-- repair_part is called for each of its three kinds. `budget` false: they are not looked at.
local function repair_queue(token, lease_ms, budget)
  repair_type(K.state .. token, 'string', token)
  repair_type(K.waiting .. token, 'zset', token)
  repair_type(K.delayed .. token, 'zset', token)
  repair_type(K.entries .. token, 'hash', token)
  repair_type(K.slots .. token, 'hash', token)
  local before = #found
  local a = open(token)
  if not a.stands then
    -- Nothing of it is left but perhaps its name.
    if redis.call('ZSCORE', K.names, token) then violation('no_state', token, '') end
    tear_down(a)
    return 0
  end
  if a.recovered then violation('no_state', token, 'its state was lost, or could not be read') end
  repair_counts(a)
  local expires = redis.call('ZSCORE', K.leases, '0:' .. token)
  if expires and not a.held then
    violation('lease_without_slot', token, '0')
    a.held = lost_lease()
  end
  repair_slots(a, lease_ms)
  local looked = 0
  if budget then
    looked = redis.call('HLEN', K.entries .. token) + a.count + redis.call('ZCARD', K.delayed .. token)
    if looked <= budget then
      for _, kind in ipairs({ 'waiting', 'delayed', 'entries' }) do
        local cursor = '0'
        repeat cursor = repair_part(a, kind, cursor, 1000) until cursor == '0'
      end
      recount(a)
    else
      looked = nil
    end
  end
  repair_sets(a)
  repair_standing(a, #found == before)
  -- It is looked at again once the lease has ended of which nobody knows what it has.
  a.damaged = leased_ids(a)[''] or false
  if not a.damaged then redis.call('ZREM', K.damaged, token) end
  return looked
end
