"""A number that every process of one step carries, so that all of them are found even after all their parents died.

The number is stored in the limit on file locks (RLIMIT_LOCKS). The kernel has ignored that limit since Linux 2.4.25,
but still inherits it through fork and exec. The supervisor sets it before it forks the step's process. A daemon may
leave its session, its directory, its environment and all descriptors, and still has it.

The number is made of the supervisor's pid and start time, so it is unique since the machine's start.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from orchestrator.isolation.posix import LINUX
from orchestrator.isolation.process_tree import ProcessId, ProcessRecord, TreeEnd, end_tree, snapshot

_RLIMIT_LOCKS = 10
_PID_BITS = 22  # the most that Linux has: PID_MAX_LIMIT


def tag_of(supervisor: ProcessId) -> int:
    """The tag of the step below this supervisor."""
    return int(supervisor.started) << _PID_BITS | supervisor.pid


def set_tag(tag: int) -> None:
    """Tag this process and all processes that it will start. Without it, only parents identify them."""
    if LINUX:
        with suppress(ValueError):  # a lower limit is set, which this user may not raise
            resource.setrlimit(_RLIMIT_LOCKS, (tag, tag))


def end_tagged(tag: int, within_seconds: float = 2.0) -> TreeEnd:
    """End every process that carries the tag, with all below it; `proved` as in `end_tree`. Linux only."""
    count = 0
    while True:
        tagged = [record for record in snapshot().values() if not record.dead and _has(record, tag)] if LINUX else []
        if not tagged:
            return TreeEnd(count, proved=True)
        for record in tagged:
            ended = end_tree(record.identity, within_seconds=within_seconds)
            count += ended.processes
            if not ended.proved:
                return TreeEnd(count, proved=False)


def _has(record: ProcessRecord, tag: int) -> bool:
    try:
        with open(f"/proc/{record.identity.pid}/limits", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    return any(line.startswith(b"Max file locks") and line.split()[3] == b"%d" % tag for line in lines)
