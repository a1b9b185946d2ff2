-- Deletes the state of a tenant queue that holds nothing; its settings stay.
-- KEYS: root
-- ARGV: token
-- Returns 1, or 0 if it holds something.
-- @include writable
-- @include queue
return delete_queue(open(ARGV[1])) and 1 or 0
