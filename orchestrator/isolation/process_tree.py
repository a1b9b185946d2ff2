"""Finds every process of a tree, ends all of them, and proves that they are gone.

Invariants
- A process is identified by pid *and* start time. A signal is sent through a pidfd whose start time was checked after
  it was opened, so a process that reuses the pid is never signalled.
- A tree is frozen before it is killed: stopped processes cannot fork, so the search ends, and no parent sees a dead
  child and starts another (Chromium and its driver do).
- Sessions and process groups do not count: Chromium and daemons leave both. Only the parent relation counts, and the
  step supervisor, as subreaper, preserves it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.isolation.posix import LINUX, now

_STOPPED_OR_DEAD = frozenset("TtZXx")
_DEAD = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, distinct from a later one with the same pid."""

    pid: int
    #: Clock ticks since boot on Linux, seconds since the epoch elsewhere. Only ever compared for equality.
    started: float


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    identity: ProcessId
    parent: int
    #: The state letter of proc(5); `Z` is a zombie: dead, but not yet collected by its parent.
    state: str

    @property
    def dead(self) -> bool:
        return self.state in _DEAD


@dataclass(frozen=True, slots=True)
class TreeEnd:
    """The result of `end_tree`: how many processes it ended, and whether all are proved gone."""

    processes: int
    proved: bool


def read_process(pid: int) -> ProcessRecord | None:
    """One process as it is now, or None if there is none."""
    if LINUX:
        try:
            line = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        # The command's name is in brackets and may itself hold brackets and spaces: proc(5), field 2.
        fields = line[line.rindex(b")") + 2 :].split()
        return ProcessRecord(ProcessId(pid, int(fields[19])), int(fields[1]), chr(fields[0][0]))
    return _read_with_psutil(pid)


def _read_with_psutil(pid: int) -> ProcessRecord | None:
    import psutil  # not at the top: on Linux the guard needs 10 MB less without it

    letters = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T", psutil.STATUS_DEAD: "X"}
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            identity = ProcessId(pid, process.create_time())
            return ProcessRecord(identity, process.ppid(), letters.get(process.status(), "S"))
    except psutil.Error:
        return None


def snapshot() -> dict[int, ProcessRecord]:
    """Every process of the machine that this user can see."""
    if LINUX:
        pids: Iterable[int] = (int(name) for name in os.listdir("/proc") if name.isdigit())
    else:
        import psutil

        pids = psutil.pids()
    return {pid: record for pid in pids if (record := read_process(pid)) is not None}


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now, or None; a zombie counts as none."""
    record = read_process(pid)
    return None if record is None or record.dead else record.identity


def is_running(identity: ProcessId) -> bool:
    return identify(identity.pid) == identity


def descendants(roots: Iterable[int], processes: Mapping[int, ProcessRecord]) -> list[ProcessRecord]:
    """All processes below `roots`, including zombies, without the roots."""
    children: dict[int, list[ProcessRecord]] = {}
    for record in processes.values():
        children.setdefault(record.parent, []).append(record)
    found: dict[int, ProcessRecord] = {}
    waiting = list(roots)
    while waiting:
        for record in children.get(waiting.pop(), ()):
            if record.identity.pid not in found:
                found[record.identity.pid] = record
                waiting.append(record.identity.pid)
    return list(found.values())


def send(identity: ProcessId, signum: signal.Signals) -> bool:
    """Signal exactly this process. False if it is gone, even if another process has its pid now."""
    if LINUX:
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return False
        except OSError:
            # No descriptor is left (EMFILE), or a kernel before 5.3: the check below narrows the race to microseconds.
            return _send_by_pid(identity, signum)
        try:
            if identify(identity.pid) != identity:
                return False
            signal.pidfd_send_signal(pidfd, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True
    return _send_by_pid(identity, signum)


def _send_by_pid(identity: ProcessId, signum: signal.Signals) -> bool:
    if identify(identity.pid) != identity:
        return False
    try:
        os.kill(identity.pid, signum)
    except ProcessLookupError:
        return False
    return True


def end_tree(
    root: ProcessId, *, with_root: bool = True, within_seconds: float = 2.0, reap: Callable[[], None] | None = None
) -> TreeEnd:
    """Freeze, then kill `root` and everything below it, and wait until all of it is gone.

    `with_root=False` spares the root: a supervisor ends its own step so. `reap` collects the caller's dead children.
    `proved` is False if something was still alive after `within_seconds`, such as a process in uninterruptible sleep:
    then call it again.
    """
    ends_at = now() + within_seconds
    tree: dict[ProcessId, None] = {}
    if with_root and is_running(root):
        tree[root] = None
    while True:
        _freeze(root, tree, ends_at)
        for identity in tree:
            send(identity, signal.SIGKILL)
        # A thread of a process may have forked just before that process was frozen: check once more.
        if _gone(tree, ends_at, reap) and not _living_below(root, tree):
            return TreeEnd(len(tree), proved=True)
        if now() >= ends_at:
            return TreeEnd(len(tree), proved=False)


def _freeze(root: ProcessId, tree: dict[ProcessId, None], ends_at: float) -> None:
    """Stop all processes of the tree, until a snapshot has no new one and all of them are stopped."""
    for identity in tree:
        send(identity, signal.SIGSTOP)
    while now() < ends_at:
        processes = snapshot()
        fresh = [record.identity for record in _below(root, tree, processes) if record.identity not in tree]
        for identity in fresh:
            tree[identity] = None
            send(identity, signal.SIGSTOP)
        if not fresh and all(_is_stopped(processes.get(identity.pid), identity) for identity in tree):
            return
        time.sleep(0.001)


def _is_stopped(record: ProcessRecord | None, identity: ProcessId) -> bool:
    # `D` is uninterruptible sleep, where a stop stays pending: such a process cannot fork before the stop.
    return record is None or record.identity != identity or record.state in _STOPPED_OR_DEAD or record.state == "D"


def _below(
    root: ProcessId, tree: Mapping[ProcessId, None], processes: Mapping[int, ProcessRecord]
) -> list[ProcessRecord]:
    ours = {*tree, root}
    pids = [i.pid for i in ours if (record := processes.get(i.pid)) is not None and record.identity == i]
    return [record for record in descendants(pids, processes) if not record.dead and record.identity != root]


def _living_below(root: ProcessId, tree: Mapping[ProcessId, None]) -> bool:
    return bool(_below(root, tree, snapshot()))


def _gone(tree: Iterable[ProcessId], ends_at: float, reap: Callable[[], None] | None) -> bool:
    pause = 0.0005
    while True:
        if reap is not None:
            reap()
        if not any(is_running(identity) for identity in tree):
            return True
        if now() >= ends_at:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
