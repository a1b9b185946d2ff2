-- Tears down a tenant queue that holds nothing; its settings stay.
-- KEYS: root
-- ARGV: token
-- Returns 1, or 0 when it holds something.
-- @include writable
-- @include lane
-- @include account
return tear_down(open(ARGV[1])) and 1 or 0
