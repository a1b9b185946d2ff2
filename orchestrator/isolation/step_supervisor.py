"""The step supervisor: one small process above each step, which ends the step's process tree and proves its end.

It runs no code of a step. It is a Linux subreaper: a descendant of the step that detached itself (`setsid`, double
fork, a browser with its own session) becomes the supervisor's child and not init's. So when `waitpid` reports that no
child is left, no process of the step exists. Only then the supervisor removes the step's TMPDIR, sends ``ended`` and
exits.

It ends the tree when the child has exited, at the time limit, over the memory limit, when the worker asks, at end of
file on the worker's connection (the worker was killed), and when the worker is silent (it was stopped). None of this
needs a thread of the worker, or the guard. It reads waiting messages before each check, as it may have been stopped.

Messages: ``hello {supervisor}`` → worker; ``start {limit, tmpdir, memory}`` and ``end`` ← worker;
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
from orchestrator.isolation.posix import become_subreaper, ignore_stop_signals, name_process, now
from orchestrator.isolation.process_tag import set_tag, tag_of
from orchestrator.isolation.process_tree import descendants, end_tree, identify, snapshot

#: How often the memory of a tree with a limit is measured. That takes some milliseconds, so the child alone, which
#: grows fastest, is measured more often.
TREE_MEMORY_SECONDS = 0.5
CHILD_MEMORY_SECONDS = 0.05
#: The longest wait while a step runs. poll() does not count the time that a host is suspended; the deadline does.
LONGEST_WAIT_SECONDS = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Wakeups:
    """A descriptor that becomes readable whenever a child dies; a signal alone could be lost between two calls.

    One per process, as Python has one wake-up descriptor. A fork closes the one that it inherits.
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


class StepSupervisor:
    """The supervisor's loop. `fork_child` forks the child, which closes the given wake-ups; returns its pid."""

    def __init__(self, worker: socket.socket, watch: WorkerWatch, fork_child: Callable[[Wakeups], int]) -> None:
        name_process("step-supervisor")
        ignore_stop_signals()
        become_subreaper()
        myself = identify(os.getpid())
        assert myself is not None
        self._myself = myself
        set_tag(tag_of(myself))
        self._worker_watch = watch
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
        """Watch until the step must end, end its tree, and report that."""
        self._worker.post({"hello": {"supervisor": os.getpid()}})
        cause = "crash"
        try:
            cause = self._watch()
        finally:
            processes = self._end()
        self._remove_tmpdir()
        self._worker.post({"ended": {"cause": cause, "status": self._status, "processes": processes}})

    def _watch(self) -> str:
        while True:
            wait([self._worker, self._wakeups], self._wait_seconds())
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
            if self._ends_at is not None and self._worker_watch.seconds_left() <= 0:
                return "silent"
            if self._memory_limit is not None and self._is_over(self._memory_limit):
                return "memory"

    def _start(self, order: dict[str, Any]) -> None:
        self._tmpdir = order["tmpdir"]
        self._memory_limit = order["memory"]
        self._ends_at = now() + order["limit"]

    def _wait_seconds(self) -> float | None:
        if self._ends_at is None:
            return None
        longest = LONGEST_WAIT_SECONDS if self._memory_limit is None else CHILD_MEMORY_SECONDS
        return min(longest, max(0.0, self._ends_at - now()), max(0.0, self._worker_watch.seconds_left()))

    def _is_over(self, limit: int) -> bool:
        """Whether the tree holds more. The child's resident pages, an upper bound, decide whether to measure it all."""
        if now() < self._measure_at and resident_memory(self._child) <= limit:
            return False
        self._measure_at = now() + TREE_MEMORY_SECONDS
        return tree_memory(os.getpid()) > limit

    def _reap(self) -> None:
        """Collect dead processes, and keep the child's wait status."""
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
        """Kill until no child is left; return the number of killed processes."""
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
    """Remove a step's directory, even if the step removed permissions in it. Never follows a link out of it."""

    def allow_and_retry(function: Callable[..., Any], name: str, error: object) -> None:
        with suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700, follow_symlinks=True) if not os.path.islink(name) else None
            function(name)

    for _ in range(3):  # each pass clears only the level whose permissions the pass before it restored
        if not os.path.lexists(path):
            return
        shutil.rmtree(path, onerror=allow_and_retry)


def tree_memory(root: int) -> int:
    """Bytes of memory of all processes below `root`.

    Proportional shares, so that pages which the zygote's forks share are counted once. A process whose shares this user
    cannot read (Chromium's renderers forbid it) counts with all of its resident pages.
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
