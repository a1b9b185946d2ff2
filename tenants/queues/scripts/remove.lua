-- Removes entries that wait or are delayed; leased ones stay.
-- KEYS: root
-- ARGV: token, entry ids
-- Returns the ids removed.
-- Invariant: only the holder of its lease ends a running entry.
-- @include writable
-- @include drop
return drop_all(open(ARGV[1]), { unpack(ARGV, 2) })
