-- A page of the lane's tenant queues, in the order of their names. Changes nothing.
-- KEYS: root
-- ARGV: the token after which the page starts ('' : from the first), number of tokens
-- Returns tokens.
local after = ARGV[1] == '' and '-' or '(' .. ARGV[1]
-- @include keys
return redis.call('ZRANGEBYLEX', K.names, after, '+', 'LIMIT', 0, tonumber(ARGV[2]))
