"""The worker's heartbeat: a page of memory that it shares with its guard, its zygote and every step supervisor.

It holds the time of the last renewal of the worker's liveness row, and whether the worker serves. Each process reads
the page itself, so none depends on another process, or on a message, to detect that the worker is silent.

Invariants
- The time is from before the renewal request, so a silence never begins later here than in the database.
- The clock continues while the host is suspended (`posix.now`), and does not restart for a reader that was stopped.
- Only the worker can write: the others have the page read-only.
"""

from __future__ import annotations

import mmap
import os
import signal
import tempfile
from collections.abc import Mapping
from typing import Any

from orchestrator.isolation.posix import LINUX, map_to_read, now
from orchestrator.isolation.process_tree import identify, send

_NANOSECONDS = 1_000_000_000
_SIZE = mmap.PAGESIZE
#: Indexes of the page's eight-byte numbers. Each is written and read atomically.
_RENEWED_AT, _SERVES = 0, 1


class HeartbeatReader:
    """The side of the other processes."""

    def __init__(self, descriptor: int) -> None:
        """Map the page that `descriptor` names, and close the descriptor."""
        try:
            self._numbers = map_to_read(descriptor, _SIZE).cast("q")
        finally:
            os.close(descriptor)

    @property
    def silent_seconds(self) -> float:
        """Seconds since the worker last renewed its liveness, or made this page."""
        return now() - self._numbers[_RENEWED_AT] / _NANOSECONDS

    @property
    def serves(self) -> bool:
        """False while the worker starts, and after it has stopped its last step: its silence is harmless then."""
        return bool(self._numbers[_SERVES])


class Heartbeat:
    """The worker's side; safe to use from all of its threads."""

    def __init__(self) -> None:
        self._descriptor = _anonymous_file()
        os.ftruncate(self._descriptor, _SIZE)
        self._numbers = memoryview(mmap.mmap(self._descriptor, _SIZE)).cast("q")
        self._set_renewed(now())

    def fileno(self) -> int:
        """For a process that makes a `HeartbeatReader` from it."""
        return self._descriptor

    @property
    def silent_seconds(self) -> float:
        """Seconds since the worker last renewed its liveness, as the others see it."""
        return now() - self._numbers[_RENEWED_AT] / _NANOSECONDS

    def renew(self, at: float) -> None:
        """The worker serves, and a request sent at `at` (by `posix.now`) has renewed its liveness."""
        self._set_renewed(at)
        self._numbers[_SERVES] = 1

    def stand_down(self) -> None:
        """The worker runs no step, and will start none."""
        self._numbers[_SERVES] = 0

    def close(self) -> None:
        """Close the descriptor; processes that have mapped the page keep it."""
        os.close(self._descriptor)

    def _set_renewed(self, at: float) -> None:
        self._numbers[_RENEWED_AT] = int(at * _NANOSECONDS)


def _anonymous_file() -> int:
    if LINUX:
        return os.memfd_create("onelane-heartbeat")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class WorkerWatch:
    """How guard, zygote and supervisor decide when a silent worker's steps are ended, and when it is killed.

    `grace_seconds` is the time from the end of its steps to the worker's own end. Without it a stopped worker would
    resume the steps in its own threads when it is continued, while they already run elsewhere.
    """

    def __init__(
        self,
        heartbeat: HeartbeatReader,
        worker_pid: int,
        *,
        silence_seconds: float,
        grace_seconds: float | None,
    ) -> None:
        """Make it in a child of the worker, as early as possible."""
        self._heartbeat = heartbeat
        #: None if the worker has already gone.
        self._worker = identify(worker_pid) if os.getppid() == worker_pid else None
        self._silence_seconds = silence_seconds
        self._grace_seconds = grace_seconds

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WorkerWatch:
        """From the config of `launch`: ``heartbeat`` (a descriptor), and the keys of `Guard.watch_config`."""
        return cls(
            HeartbeatReader(config["heartbeat"]),
            config["worker"],
            silence_seconds=config["silence"],
            grace_seconds=config["worker_grace"],
        )

    @property
    def worker_serves(self) -> bool:
        return self._heartbeat.serves

    def seconds_left(self, slack_seconds: float = 0.0) -> float:
        """Seconds until the worker's silence ends its steps; zero or less when they must end now.

        Guard and zygote add `slack_seconds`, so that the step's supervisor acts first.
        """
        return self._silence_seconds + slack_seconds - self._heartbeat.silent_seconds

    def kill_worker_when_due(self) -> str | None:
        """Kill the worker if it serves and has been silent for too long; returns a line for the log if it did."""
        worker, silent = self._worker, self._heartbeat.silent_seconds
        if worker is None or self._grace_seconds is None or not self._heartbeat.serves:
            return None
        if silent <= self._silence_seconds + self._grace_seconds:
            return None
        self._worker = None
        if not send(worker, signal.SIGKILL):
            return None
        return f"the worker (pid {worker.pid}) has not renewed its liveness for {silent:.1f} s; it was killed"
