-- For scripts that write. Fails before anything is written where the server takes no writes: it is full, read-only or
-- cannot save. Else a full server would refuse some commands of a script and not others, and leave keys that do not
-- agree. An empty string written into R changes nothing, and is refused like any other write.
-- @include keys
redis.call('SETRANGE', R, 0, '')
