"""A mark that every process of one step carries, however it detached itself: found again without any parent.

The kernel has ignored the limit on file locks since Linux 2.4.25, but still keeps it for each process and hands it on
through fork and exec. A keeper sets it to a number of its own before it forks the step's process. A daemon may leave
its session, its directory, its environment and all descriptors, and still has it.

The number is made of the keeper's pid and start time, so no two steps since the machine's start have the same.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from orchestrator.isolation.posix import LINUX
from orchestrator.isolation.process_tree import ProcessId, ProcessRecord, TreeEnd, end_tree, snapshot

_RLIMIT_LOCKS = 10
_PID_BITS = 22  # the most that Linux has: PID_MAX_LIMIT


def mark_of(keeper: ProcessId) -> int:
    """The mark of the step below this keeper."""
    return int(keeper.started) << _PID_BITS | keeper.pid


def put_on(mark: int) -> None:
    """Mark this process, and with it all that it will ever start; where that cannot be, only parents tell."""
    if LINUX:
        with suppress(ValueError):  # somebody has set a lower limit, which this user may not raise
            resource.setrlimit(_RLIMIT_LOCKS, (mark, mark))


def end_marked(mark: int, within_seconds: float = 2.0) -> TreeEnd:
    """End every process that carries the mark, with all below it; `proved` as in `end_tree`. Linux only."""
    count = 0
    while True:
        marked = [record for record in snapshot().values() if not record.dead and _has(record, mark)] if LINUX else []
        if not marked:
            return TreeEnd(count, proved=True)
        for record in marked:
            ended = end_tree(record.identity, within_seconds=within_seconds)
            count += ended.processes
            if not ended.proved:
                return TreeEnd(count, proved=False)


def _has(record: ProcessRecord, mark: int) -> bool:
    try:
        with open(f"/proc/{record.identity.pid}/limits", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    return any(line.startswith(b"Max file locks") and line.split()[3] == b"%d" % mark for line in lines)
