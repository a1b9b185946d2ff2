"""The exit codes of the command line. `docs` and scripts rely on them."""

from __future__ import annotations

#: Done; the service refused or the work failed; wrong usage; no service answers; the settings are wrong; interrupted;
#: the reader of the output is gone.
OK, FAILED, USAGE, NOT_REACHABLE, WRONG_SETTINGS, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 4, 130, 141
#: How a job ended, for commands that wait for it.
JOB_ENDINGS = {"completed": OK, "failed": 10, "timed_out": 11, "cancelled": 12, "expired": 13}
#: The job did not end within the time.
JOB_NOT_ENDED = 14
