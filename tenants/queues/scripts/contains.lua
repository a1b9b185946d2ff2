-- Which entries a tenant queue holds: waiting, delayed or leased. Changes nothing.
-- KEYS: root
-- ARGV: token, entry ids
-- Returns 1 or 0 for each.
-- @include keys
local out = {}
for i = 2, #ARGV do out[i - 1] = redis.call('HEXISTS', K.entries .. ARGV[1], ARGV[i]) end
return out
