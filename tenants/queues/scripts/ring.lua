-- Signals the bell again for a consumer that took it and has no free thread.
-- KEYS: root
-- Returns the number of ready accounts.
-- @include writable
-- @include start
local ready = signal_ready()
if ready == 0 and redis.call('ZCARD', K.timers) > 0 then signal() end
return ready
