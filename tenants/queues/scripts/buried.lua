-- Lists buried messages, oldest first; or removes some.
-- KEYS: root
-- ARGV: 'list', most | 'take', buried ids
-- Returns list: {buried id, ms, stored message, ...}; take: the number removed.
-- @include keys
if ARGV[1] == 'list' then
  local out = {}
  local found = redis.call('ZRANGE', K.buried, 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    out[#out + 1] = found[i]
    out[#out + 1] = found[i + 1]
    out[#out + 1] = redis.call('HGET', K.buried_messages, found[i])
  end
  return out
end
local removed = 0
for i = 2, #ARGV do
  removed = removed + redis.call('ZREM', K.buried, ARGV[i])
  redis.call('HDEL', K.buried_messages, ARGV[i])
end
return removed
