-- Where a waiting entry stands. Changes nothing.
-- KEYS: root
-- ARGV: token, entry id
-- Returns its place (0 is next), or false when it does not wait.
-- @include keys
return redis.call('ZRANK', K.waiting .. ARGV[1], ARGV[2])
