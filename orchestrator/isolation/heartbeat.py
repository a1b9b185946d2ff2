"""The worker's sign of life: a page of memory that it shares with its guard, its zygote and every keeper.

It holds the moment of the last renewal of the worker's liveness row, and whether the worker serves. Each of the others
reads it for itself, so none depends on another to learn that the worker is silent: not on the guard, and not on a
message that a stopped process could neither send, pass on nor read.

Invariants
- The moment is from before the renewal was asked for, so a silence never begins later here than in the database.
- The clock runs on while the host is suspended (`posix.now`), and does not restart for a reader that was stopped.
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
#: Indexes of the page's eight-byte numbers: each is written and read at once, so no reader sees half of one.
_RENEWED_AT, _SERVES = 0, 1


class HeartbeatReader:
    """What a process other than the worker sees."""

    def __init__(self, descriptor: int) -> None:
        """Map the page that `descriptor` names, and close the descriptor."""
        try:
            self._numbers = map_to_read(descriptor, _SIZE).cast("q")
        finally:
            os.close(descriptor)

    @property
    def silent_seconds(self) -> float:
        """How long ago the worker last renewed its liveness, or made this page."""
        return now() - self._numbers[_RENEWED_AT] / _NANOSECONDS

    @property
    def serves(self) -> bool:
        """False while the worker starts, and once it runs nothing any more: its silence does no harm then."""
        return bool(self._numbers[_SERVES])


class Heartbeat:
    """The worker's side; safe to use from all of its threads."""

    def __init__(self) -> None:
        self._descriptor = _anonymous_file()
        os.ftruncate(self._descriptor, _SIZE)
        self._numbers = memoryview(mmap.mmap(self._descriptor, _SIZE)).cast("q")
        self._note(now())

    def fileno(self) -> int:
        """To be passed on to a process that makes a `HeartbeatReader` of it."""
        return self._descriptor

    @property
    def silent_seconds(self) -> float:
        """How long ago the worker last renewed its liveness, as the others see it."""
        return now() - self._numbers[_RENEWED_AT] / _NANOSECONDS

    def renew(self, at: float) -> None:
        """The worker serves, and its liveness was renewed by a request that left at `at`, by `posix.now`."""
        self._note(at)
        self._numbers[_SERVES] = 1

    def stand_down(self) -> None:
        """The worker runs nothing any more."""
        self._numbers[_SERVES] = 0

    def close(self) -> None:
        """No further process can have the page; whoever has it keeps it."""
        os.close(self._descriptor)

    def _note(self, at: float) -> None:
        self._numbers[_RENEWED_AT] = int(at * _NANOSECONDS)


def _anonymous_file() -> int:
    if LINUX:
        return os.memfd_create("onelane-heartbeat")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class WorkerWatch:
    """How guard, zygote and keeper judge the worker: when its steps are to end, and when it is killed itself.

    With `grace_seconds` the worker is killed so long after the silence has cost it its steps: a stopped one would
    otherwise go on with the steps in its own threads as soon as it is continued, after they were given away.
    """

    def __init__(
        self,
        heartbeat: HeartbeatReader,
        worker_pid: int,
        *,
        silence_seconds: float,
        grace_seconds: float | None,
    ) -> None:
        """To be made by a child of the worker, as early as possible."""
        self._heartbeat = heartbeat
        #: None where the worker has gone already.
        self._worker = identify(worker_pid) if os.getppid() == worker_pid else None
        self._silence_seconds = silence_seconds
        self._grace_seconds = grace_seconds

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WorkerWatch:
        """From what `launch` passes on: ``heartbeat`` (a descriptor), and what `Guard.watch_config` gives."""
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
        """Until the worker has been silent for so long that its steps are to end; not above zero when they are.

        `slack_seconds` is added by those who are further from a step than its keeper, so that the keeper acts first.
        """
        return self._silence_seconds + slack_seconds - self._heartbeat.silent_seconds

    def kill_worker_when_due(self) -> str | None:
        """Kill the worker if it serves and has been silent for too long; gives back what to log of it."""
        worker, silent = self._worker, self._heartbeat.silent_seconds
        if worker is None or self._grace_seconds is None or not self._heartbeat.serves:
            return None
        if silent <= self._silence_seconds + self._grace_seconds:
            return None
        self._worker = None
        if not send(worker, signal.SIGKILL):
            return None
        return f"the worker (pid {worker.pid}) has not renewed its liveness for {silent:.1f} s; it was killed"
