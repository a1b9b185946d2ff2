"""The worker's side of the guard process: starting it, registering what runs, and the worker's heartbeat.

Invariants:
- A step is registered before it starts and forgotten after its tree is gone, so the guard never misses one.
- Only `beat` counts as a sign of life, and the worker calls it after it has renewed its liveness row. A worker that
  can't renew therefore loses its steps, like one that is stopped.
- The guard is never missed for long. When it dies or stops answering, another takes its place at once, with all
  running steps registered; meanwhile their keepers enforce the limits, and end them if the worker falls silent too.
  When it can't be replaced, `lost` turns true, running steps are ended, no step starts, and `on_lost` lets the worker
  stop claiming.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.frames import Channel, FrameError, wait
from orchestrator.isolation.heartbeat import Heartbeat
from orchestrator.isolation.launch import launch
from orchestrator.isolation.posix import now
from orchestrator.isolation.process_tree import ProcessId

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 8.0
#: With more replacements than this within `REPLACEMENT_WINDOW_SECONDS`, a further one won't help either.
MAX_REPLACEMENTS = 5
REPLACEMENT_WINDOW_SECONDS = 60.0
STOP_SECONDS = 5.0

Reason = Literal["limit", "silent", "asked"]


class GuardLost(RuntimeError):
    """There is no guard, and none can be started: no step may run."""


@dataclass(frozen=True, slots=True)
class GuardReport:
    """A tree that the guard has ended and seen to be gone."""

    reason: Reason
    #: How many processes it killed; 0 if the tree had gone by itself.
    processes: int


@dataclass(slots=True)
class _Watched:
    keeper: ProcessId
    ends_at: float
    report: GuardReport | None = None


class Guard:
    """Starts and talks to the guard process; safe to use from all of the worker's threads.

    `beat_seconds` has the guard's own thread beat for the worker: for programs without a heartbeat of their own. The
    worker leaves it None and calls `beat`. With `worker_grace_seconds` guard and zygote also kill the worker itself, so
    long after the silence has cost it its steps.
    """

    def __init__(
        self,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        worker_grace_seconds: float | None = None,
        beat_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self.silence_seconds = silence_seconds
        #: Shared with everything that is launched with it.
        self.heartbeat = Heartbeat()
        self._worker_grace_seconds = worker_grace_seconds
        #: True once the guard died and could not be replaced. Final.
        self.lost = False
        #: How many guards have been replaced.
        self.replacements = 0
        self._beat_seconds = beat_seconds
        self._environment = allowed_environment(os.environ) if environment is None else dict(environment)
        self._on_lost = on_lost
        self._state = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._scratch: set[str] = set()
        self._replaced_at: deque[float] = deque()
        self._unheard_since: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._stopping = False
        self._listener: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The guard's process id, or None when it isn't running."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the guard process, before any step."""
        with self._state:
            if self._listener is not None:
                raise RuntimeError("this guard has been started already")
            self._launch()
            self._listener = threading.Thread(target=self._listen, name="guard-listener", daemon=True)
        self._listener.start()

    def stop(self) -> None:
        """Have the guard end whatever is still registered, and leave."""
        with self._state:
            self._stopping = True
            channel, process = self._channel, self._process
        if self._listener is None or channel is None or process is None:
            return
        with suppress(OSError):
            channel.sock.shutdown(1)  # end of file for the guard, while its last reports can still come in
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.error("the guard (pid %d) does not stop; killing it", process.pid)
            process.kill()
            process.wait()
        self._listener.join(STOP_SECONDS)
        channel.close()
        self.heartbeat.close()

    @property
    def watch_config(self) -> dict[str, Any]:
        """What a `WorkerWatch` needs to know besides the heartbeat."""
        return {
            "worker": os.getpid(),
            "silence": self.silence_seconds,
            "worker_grace": self._worker_grace_seconds,
        }

    def beat(self, renewed_at: float | None = None) -> None:
        """The worker lives and may go on. To be called after each renewal of its liveness row.

        `renewed_at`: when the renewal was asked for, by `posix.now`; None for this moment.
        """
        self.heartbeat.renew(now() if renewed_at is None else renewed_at)
        with self._state:
            if self._unheard_since is None:
                self._unheard_since = now()
            self._post({"ping": {}})

    def stand_down(self) -> None:
        """The worker runs nothing any more and is about to leave: it need not be killed when it falls silent."""
        self.heartbeat.stand_down()

    def register(self, key: str, keeper: ProcessId, limit_seconds: float) -> None:
        """Have the tree below and including `keeper` ended `limit_seconds` from now, and when the worker fails.

        Raises:
            GuardLost: there is no guard.
        """
        with self._state:
            if self.lost or self._listener is None:
                raise GuardLost("no guard process: steps can't be started")
            watched = _Watched(keeper, now() + limit_seconds)
            self._watched[key] = watched
            self._post_registration(key, watched)

    def forget(self, key: str) -> None:
        """The tree of `key` is gone."""
        with self._state:
            if self._watched.pop(key, None) is not None:
                self._post({"forget": {"key": key}})

    def remove_at_end(self, directory: str) -> None:
        """Have the guard remove `directory` when the worker has gone, however that happened."""
        with self._state:
            self._scratch.add(directory)
            self._post({"scratch": {"path": directory}})

    def report(self, key: str) -> GuardReport | None:
        """What the guard did to the tree of `key`, if anything."""
        with self._state:
            watched = self._watched.get(key)
            return None if watched is None else watched.report

    def end(self, key: str, timeout_seconds: float) -> GuardReport | None:
        """End the tree of `key` now. None if the guard has not proved its end within the time."""
        ends_at = now() + timeout_seconds
        with self._state:
            watched = self._watched.get(key)
            if watched is None:
                raise KeyError(f"step {key!r} is not registered with the guard")
            if watched.report is None:
                self._post({"end": {"key": key}})
            while watched.report is None and not self.lost and (left := ends_at - now()) > 0:
                self._state.wait(left)
            if watched.report is None and self._channel is not None and not self._channel.closed:
                self._take_in(self._channel)  # it may wait there since this process was stopped
            return watched.report

    # Everything below is called with the state held, or by the listener's thread.

    def _launch(self) -> None:
        module = "orchestrator.isolation.guard_process"
        self._process, sock = launch(module, self.watch_config, self._environment, self.heartbeat)
        self._channel = Channel(sock)
        self._unheard_since = None
        for path in self._scratch:
            self._post({"scratch": {"path": path}})
        for key, watched in self._watched.items():
            self._post_registration(key, watched)

    def _post_registration(self, key: str, watched: _Watched) -> None:
        limit = max(0.0, watched.ends_at - now())
        keeper = watched.keeper
        self._post({"register": {"key": key, "pid": keeper.pid, "started": keeper.started, "limit": limit}})

    def _post(self, message: dict[str, Any]) -> None:
        if self._channel is not None and not self._channel.closed:
            self._channel.post(message)

    def _listen(self) -> None:
        beat_at = now()
        while True:
            if self._beat_seconds is not None and now() >= beat_at and not self._stopping:
                self.beat()
                beat_at = now() + self._beat_seconds
            channel = self._channel
            assert channel is not None
            try:
                wait([channel], self._nap(beat_at), [channel] if channel.unsent else [])
            except (OSError, ValueError):
                return  # closed by stop()
            with self._state:
                self._take_in(channel)
                if not channel.closed and not self._deaf():
                    continue
                if self._stopping:
                    return
                replaced = self._replace()
            if not replaced:
                if self._on_lost is not None:
                    self._on_lost("the guard process is gone and could not be replaced")
                return

    def _nap(self, beat_at: float) -> float:
        return 1.0 if self._beat_seconds is None else min(1.0, max(0.0, beat_at - now()))

    def _take_in(self, channel: Channel) -> None:
        channel.flush()
        try:
            messages = channel.pull()
        except FrameError:
            logger.exception("the guard sent something unreadable")
            channel.close()
            return
        for message in messages:
            if "pong" in message:
                self._unheard_since = None
            elif "ended" in message:
                ended = message["ended"]
                watched = self._watched.get(ended["key"])
                if watched is not None and watched.report is None:
                    watched.report = GuardReport(ended["reason"], ended["processes"])
        self._state.notify_all()

    def _deaf(self) -> bool:
        """The guard lives but does not answer: it was stopped. Judged after its answers were read."""
        return self._unheard_since is not None and now() - self._unheard_since > self.silence_seconds

    def _replace(self) -> bool:
        assert self._process is not None
        assert self._channel is not None
        self._process.kill()
        status = self._process.wait()
        self._channel.close()
        moment = now()
        while self._replaced_at and moment - self._replaced_at[0] > REPLACEMENT_WINDOW_SECONDS:
            self._replaced_at.popleft()
        if len(self._replaced_at) < MAX_REPLACEMENTS:
            self._replaced_at.append(moment)
            self.replacements += 1
            logger.error("the guard (pid %d) has gone, status %d; starting another", self._process.pid, status)
            try:
                self._launch()
                return True
            except OSError:
                logger.exception("no guard can be started")
        self.lost = True
        self._process = None
        self._state.notify_all()
        logger.critical("there is no guard any more: running steps are ended and no step starts")
        return False
