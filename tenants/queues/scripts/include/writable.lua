-- For scripts that write; included first. It raises the server's refusal before anything is written, if the server is
-- full, read-only or cannot save. Without it a full server would refuse only some commands of a script, and leave keys
-- that disagree. An empty string written into R changes nothing, and is refused as any other write.
-- @include keys
redis.call('SETRANGE', R, 0, '')
