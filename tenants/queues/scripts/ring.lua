-- Rings the bell again for a consumer that took it and could not use it.
-- KEYS: root
-- Returns the number of accounts ready.
-- @include writable
-- @include lane
-- @include account
-- @include lease
-- @include start
local left = pass_on()
if left == 0 and redis.call('ZCARD', K.timers) > 0 then ring() end
return left
