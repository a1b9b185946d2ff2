-- Repairs of tenant queues whose keys were lost or disagree.
-- Gives: found, the violations, each of which the script has repaired at its end; violation(kind, token, detail);
-- repair_type(key, type, token), repair_queue(token, lease_ms, budget), leased_ids(queue), repair_entry(queue, id,
-- value, leased), repair_part(queue, kind, cursor, count).
-- Invariant: after a repair each entry is in exactly one of waiting, delayed and a lease; a message that can be read is
-- never dropped; a slot that a worker may still use stays taken until its lease ends.
-- @include lease
local found = {}
local function violation(kind, token, detail) found[#found + 1] = { kind, token, detail } end

-- Deletes a key of another type: every command on it would be an error.
local function repair_type(key, kind, token)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then
    redis.call('UNLINK', key)
    violation('wrong_type', token, is .. ' instead of ' .. kind)
  end
end

local function repair_counts(queue)
  local waiting, due, others = queue.waiting, queue.due, queue.other_slots
  recount(queue)
  if queue.waiting ~= waiting then violation('waiting', queue.token, waiting .. ' counted, ' .. queue.waiting .. ' wait') end
  if queue.due ~= due then violation('delayed', queue.token, whole(due) .. ' known, the first is due at ' .. whole(queue.due)) end
  if queue.other_slots ~= others then violation('slots', queue.token, others .. ' counted, ' .. queue.other_slots .. ' taken') end
end

local function repair_slots(queue, lease_ms)
  for _, slot in ipairs(slots_of(queue)) do
    local member = slot .. ':' .. queue.token
    local expires = redis.call('ZSCORE', K.leases, member)
    if not lease_in(queue, slot) then
      violation('unreadable_slot', queue.token, slot)
      if expires then keep_lease(queue, slot, lost_lease()) else drop_lease(queue, slot) end
    elseif not expires then
      violation('slot_without_lease', queue.token, slot)
      -- Its worker, if it is alive, extends it within that time.
      redis.call('ZADD', K.leases, whole(now + lease_ms), member)
    end
  end
end

-- Entry id → true for each leased entry; '' → true if a lease was lost, which can have any entry.
local function leased_ids(queue)
  local leased = {}
  for _, slot in ipairs(slots_of(queue)) do
    local lease = lease_in(queue, slot)
    leased[lease and lease.id or ''] = true
  end
  return leased
end

-- Puts an entry that is in no place back into waiting, or into delayed if its time has not come.
local function place_entry(queue, id, score, added)
  if added > now and not queue.limits.strict then
    put_delayed(queue, id, added)
  else
    if added > now then queue.hold = math.max(queue.hold, added) end
    put_waiting(queue, id, score, added)
  end
end

local function repair_entry(queue, id, value, leased)
  local score, added = decode_entry(value)
  local waits = redis.call('ZSCORE', K.waiting .. queue.token, id)
  local delayed = redis.call('ZSCORE', K.delayed .. queue.token, id)
  if not score then
    violation('unreadable_entry', queue.token, id)
    take_waiting(queue, id)
    take_delayed(queue, id)
    bury(queue, id, 'unreadable', value)
  elseif leased[id] then
    if not waits and not delayed then return end
    violation('leased_and_waiting', queue.token, id)
    take_waiting(queue, id)
    take_delayed(queue, id)
  elseif waits and delayed then
    violation('in_two_places', queue.token, id)
    if added > now and not queue.limits.strict then take_waiting(queue, id) else take_delayed(queue, id) end
  elseif not waits and not delayed and not leased[''] then
    violation('in_no_place', queue.token, id)
    place_entry(queue, id, score, added)
  end
end

-- Checks a part of one key: entries (is each in exactly one place?), waiting or delayed (does each have a message?).
-- Returns the cursor of the next part, '0' at the end.
local function repair_part(queue, kind, cursor, count)
  if kind == 'entries' then
    local answer = redis.call('HSCAN', K.entries .. queue.token, cursor, 'COUNT', count)
    local leased = leased_ids(queue)
    for i = 1, #answer[2], 2 do repair_entry(queue, answer[2][i], answer[2][i + 1], leased) end
    return answer[1]
  end
  local key = (kind == 'waiting' and K.waiting or K.delayed) .. queue.token
  local answer = redis.call('ZSCAN', key, cursor, 'COUNT', count)
  for i = 1, #answer[2], 2 do
    local id = answer[2][i]
    if redis.call('HEXISTS', K.entries .. queue.token, id) == 0 then
      violation('no_message', queue.token, id)
      if kind == 'waiting' then take_waiting(queue, id) else take_delayed(queue, id) end
    end
  end
  return answer[1]
end

-- Puts the queue into the set of its standing, and in no other.
local function repair_sets(queue)
  local token, standing = queue.token, queue.standing
  if standing ~= 'n' and not redis.call('ZSCORE', K.names, token) then
    violation('nameless', token, '')
    redis.call('ZADD', K.names, 0, token)
  end
  for key, set in pairs({ [K.ready] = 'ready', [K.timers] = 'timers', [K.idle] = 'idle' }) do
    local letter = string.sub(set, 1, 1)
    local present = redis.call('ZSCORE', key, token)
    if present and standing ~= letter then
      if standing ~= 'n' then violation('stands_twice', token, set) end
      redis.call('ZREM', key, token)
    elseif not present and standing == letter then
      violation('stands_nowhere', token, set)
      queue.listed = 'x' -- in no set: save() adds it
    end
  end
end

-- Places the queue by its contents. `clean`: no other violation was found.
local function repair_standing(queue, clean)
  local standing = queue.standing
  local placed = place(queue)
  -- A time that has come since the last poll is no violation: the next claim polls.
  if clean and placed ~= standing and not (standing == 't' and placed == 'r') and queue.due == queue.due_stored then
    violation('misplaced', queue.token, standing .. ' instead of ' .. placed)
  end
  -- If the lane's state is an old copy, its virtual time is far behind the accounts that wait.
  if placed == 'r' and running(queue) == 0 and queue.vtime > lane.vtime + MOST_DEBT then lane.vtime = queue.vtime - MOST_DEBT end
  mark_changed(queue)
  if placed == 'r' then signal() end
end

-- Repairs one queue. Returns how many of its entries were checked; nil: they are more than `budget`, and the caller
-- must call repair_part for each of the three kinds. `budget` false: entries are not checked.
local function repair_queue(token, lease_ms, budget)
  repair_type(K.state .. token, 'string', token)
  repair_type(K.waiting .. token, 'zset', token)
  repair_type(K.delayed .. token, 'zset', token)
  repair_type(K.entries .. token, 'hash', token)
  repair_type(K.slots .. token, 'hash', token)
  local before = #found
  local queue = open(token)
  if not queue.standing then
    -- Only its name can be left.
    if redis.call('ZSCORE', K.names, token) then violation('no_state', token, '') end
    delete_queue(queue)
    return 0
  end
  if queue.recovered then violation('no_state', token, 'its state was lost, or could not be read') end
  repair_counts(queue)
  local expires = redis.call('ZSCORE', K.leases, '0:' .. token)
  if expires and not queue.lease then
    violation('lease_without_slot', token, '0')
    queue.lease = lost_lease()
  end
  repair_slots(queue, lease_ms)
  local checked = 0
  if budget then
    checked = redis.call('HLEN', K.entries .. token) + queue.waiting + redis.call('ZCARD', K.delayed .. token)
    if checked <= budget then
      for _, kind in ipairs({ 'waiting', 'delayed', 'entries' }) do
        local cursor = '0'
        repeat cursor = repair_part(queue, kind, cursor, 1000) until cursor == '0'
      end
      recount(queue)
    else
      checked = nil
    end
  end
  repair_sets(queue)
  repair_standing(queue, #found == before)
  -- It is checked again after a lost lease has ended.
  queue.damaged = leased_ids(queue)[''] or false
  if not queue.damaged then redis.call('ZREM', K.damaged, token) end
  return checked
end
