"""The keeper: one small process above each step, which ends the step's tree and proves it.

It runs no code of a step. It is the subreaper of everything the step starts, so a grandchild that detached itself
(`setsid`, double fork, a browser of its own session) becomes the keeper's child and not init's. Hence the proof: when
`waitpid` answers that there is no child left, nothing of the step exists any more. Only then does the keeper remove
the step's TMPDIR, say ``ended`` and go.

It ends the tree when the child has gone, at the time limit, over the memory limit, when the worker asks, at end of
file on the worker's connection, which is what a killed worker leaves, and when the worker is silent, which is what a
stopped one is. None of this needs a thread of the worker, or the guard. Before it judges it reads what waits: it may
have been stopped itself.

Messages: ``hello {keeper, child}`` → worker; ``start {limit, tmpdir, memory}`` and ``end`` ← worker;
``ended {cause, status, processes}`` → worker, with `cause` one of ``exit limit memory silent asked``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.isolation.frames import Channel, wait
from orchestrator.isolation.heartbeat import WorkerWatch
from orchestrator.isolation.mark import mark_of, put_on
from orchestrator.isolation.posix import become_subreaper, name_process, now, outlive_orderly_stops
from orchestrator.isolation.process_tree import descendants, end_tree, identify, snapshot

#: How often the memory of a tree is measured, where it has a limit. That takes some milliseconds, so the child alone,
#: which is what grows fastest, is looked at more often.
TREE_MEMORY_SECONDS = 0.5
CHILD_MEMORY_SECONDS = 0.05
#: The longest nap while a step runs. select() does not count the time that a host is suspended; the deadline does.
LONGEST_NAP_SECONDS = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Wakeups:
    """A descriptor that becomes readable whenever a child dies; a signal alone could be lost between two calls.

    There is one per process, as there is one wake-up descriptor in Python. A fork closes the one that it inherits.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)

    def fileno(self) -> int:
        return self._reader.fileno()

    def clear(self) -> None:
        with suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


class Keeper:
    """The keeper's loop. `fork_child` starts the step's process, without the given wake-ups, and gives its pid."""

    def __init__(self, worker: socket.socket, watch: WorkerWatch, fork_child: Callable[[Wakeups], int]) -> None:
        name_process("onelane-keeper")
        outlive_orderly_stops()
        become_subreaper()
        myself = identify(os.getpid())
        assert myself is not None
        self._myself = myself
        put_on(mark_of(myself))
        self._watch_worker = watch
        self._wakeups = Wakeups()
        self._worker = Channel(worker)
        self._child = fork_child(self._wakeups)
        self._status: int | None = None
        self._childless = False
        self._tmpdir: str | None = None
        self._ends_at: float | None = None
        self._memory_limit: int | None = None
        self._measure_at = 0.0

    def run(self) -> None:
        """Watch until the step must end, end it, say so."""
        self._worker.post({"hello": {"keeper": os.getpid(), "child": self._child}})
        cause = "crash"
        try:
            cause = self._watch()
        finally:
            processes = self._end()
        self._remove_tmpdir()
        self._worker.post({"ended": {"cause": cause, "status": self._status, "processes": processes}})

    def _watch(self) -> str:
        while True:
            wait([self._worker, self._wakeups], self._nap())
            self._wakeups.clear()
            self._reap()
            for message in self._worker.pull():
                if "start" in message:
                    self._start(message["start"])
                if "end" in message:
                    return "asked"
            if self._worker.closed:
                return "asked"
            if self._status is not None:
                return "exit"
            if self._ends_at is not None and now() >= self._ends_at:
                return "limit"
            if self._ends_at is not None and self._watch_worker.seconds_left() <= 0:
                return "silent"
            if self._memory_limit is not None and self._is_over(self._memory_limit):
                return "memory"

    def _start(self, order: dict[str, Any]) -> None:
        self._tmpdir = order["tmpdir"]
        self._memory_limit = order["memory"]
        self._ends_at = now() + order["limit"]

    def _nap(self) -> float | None:
        if self._ends_at is None:
            return None
        longest = LONGEST_NAP_SECONDS if self._memory_limit is None else CHILD_MEMORY_SECONDS
        return min(longest, max(0.0, self._ends_at - now()), max(0.0, self._watch_worker.seconds_left()))

    def _is_over(self, limit: int) -> bool:
        """Resident pages overstate the child's share, so they only say when a proper measurement is worth its time."""
        if now() < self._measure_at and resident_memory(self._child) <= limit:
            return False
        self._measure_at = now() + TREE_MEMORY_SECONDS
        return tree_memory(os.getpid()) > limit

    def _reap(self) -> None:
        """Collect the dead. The child's own wait status is kept; an orphan's is of no interest."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._child:
                self._status = status

    def _end(self) -> int:
        """Kill until no child is left; return how many processes that took."""
        processes = 0
        self._reap()
        while not self._childless:
            processes += end_tree(self._myself, with_root=False, reap=self._reap).processes
            self._reap()
        return processes

    def _remove_tmpdir(self) -> None:
        if self._tmpdir is not None:
            remove_directory(self._tmpdir)


def remove_directory(path: str | Path) -> None:
    """Remove a step's directory, also where the step took away its own permissions. Never follows a link out of it."""

    def allow_and_retry(function: Callable[..., Any], name: str, error: object) -> None:
        with suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700, follow_symlinks=True) if not os.path.islink(name) else None
            function(name)

    for _ in range(3):  # each pass can only clear the level whose permissions the pass before it mended
        if not os.path.lexists(path):
            return
        shutil.rmtree(path, onerror=allow_and_retry)


def tree_memory(root: int) -> int:
    """Bytes of memory that everything below `root` holds.

    Proportional shares, so that pages which the zygote's forks have in common are not counted once for each process.
    A process whose shares this user can't read (Chromium's renderers forbid it) counts with all of its resident pages.
    """
    return sum(_process_memory(record.identity.pid) for record in descendants([root], snapshot()))


def _process_memory(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident_memory(pid)


def resident_memory(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0
