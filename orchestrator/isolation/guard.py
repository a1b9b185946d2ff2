"""The worker's side of the guard process: starts it, registers running steps, and writes the worker's heartbeat.

Invariants
- A step is registered before it starts and removed after its tree is gone, so the guard knows every running step.
- Only `beat` counts as a heartbeat, and the worker calls it after it has renewed its liveness row. A worker that cannot
  renew therefore loses its steps, like one that is stopped.
- A guard that dies or stops answering is replaced at once, with all running steps registered. Meanwhile the steps'
  supervisors enforce the limits, and end the steps if the worker is silent too. If it cannot be replaced, `lost`
  becomes true, running steps are ended, no step starts, and the worker stops claiming (`on_lost`).
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
#: After this many replacements within `REPLACEMENT_WINDOW_SECONDS` there is no further one.
MAX_REPLACEMENTS = 5
REPLACEMENT_WINDOW_SECONDS = 60.0
STOP_SECONDS = 5.0

Reason = Literal["limit", "silent", "asked"]


class GuardLost(RuntimeError):
    """There is no guard and none can be started, so no step may run."""


@dataclass(frozen=True, slots=True)
class GuardReport:
    """A tree that the guard has ended and proved gone."""

    reason: Reason
    #: How many processes it killed; 0 if the tree had already ended.
    processes: int


@dataclass(slots=True)
class _Watched:
    supervisor: ProcessId
    ends_at: float
    report: GuardReport | None = None


class Guard:
    """Starts the guard process and exchanges messages with it; safe to use from all of the worker's threads.

    With `beat_seconds` this object's thread calls `beat`, for programs without a liveness row. With
    `worker_grace_seconds` guard and zygote also kill a silent worker, that long after they have ended its steps.
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
        #: Shared with the processes that are launched with it.
        self.heartbeat = Heartbeat()
        self._worker_grace_seconds = worker_grace_seconds
        #: True after the guard died and could not be replaced. Final.
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
        self._unanswered_since: float | None = None
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
        """End the guard, which first ends the steps that are still registered."""
        with self._state:
            self._stopping = True
            channel, process = self._channel, self._process
        if self._listener is None or channel is None or process is None:
            return
        with suppress(OSError):
            channel.sock.shutdown(1)  # end of file for the guard; its last reports can still arrive
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
        """The config of a `WorkerWatch`, without the heartbeat."""
        return {
            "worker": os.getpid(),
            "silence": self.silence_seconds,
            "worker_grace": self._worker_grace_seconds,
        }

    def beat(self, renewed_at: float | None = None) -> None:
        """Write the heartbeat. Call it after each renewal of the worker's liveness row.

        `renewed_at`: when the renewal was requested, by `posix.now`; None for now.
        """
        self.heartbeat.renew(now() if renewed_at is None else renewed_at)
        with self._state:
            if self._unanswered_since is None:
                self._unanswered_since = now()
            self._post({"ping": {}})

    def register(self, key: str, supervisor: ProcessId, limit_seconds: float) -> None:
        """Have the guard end the tree of `supervisor` in `limit_seconds`, and when the worker fails.

        Raises:
            GuardLost: there is no guard.
        """
        with self._state:
            if self.lost or self._listener is None:
                raise GuardLost("no guard process: steps cannot be started")
            watched = _Watched(supervisor, now() + limit_seconds)
            self._watched[key] = watched
            self._post_registration(key, watched)

    def forget(self, key: str) -> None:
        """The tree of `key` is gone."""
        with self._state:
            if self._watched.pop(key, None) is not None:
                self._post({"forget": {"key": key}})

    def remove_at_end(self, directory: str) -> None:
        """Have the guard remove `directory` when the worker has gone, however it ended."""
        with self._state:
            self._scratch.add(directory)
            self._post({"scratch": {"path": directory}})

    def end(self, key: str, timeout_seconds: float) -> GuardReport | None:
        """End the tree of `key` now. None if the guard has not proved its end within `timeout_seconds`."""
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
                self._read(self._channel)  # the report may have arrived while this process was stopped
            return watched.report

    # The methods below are called with the state locked, or by the listener's thread.

    def _launch(self) -> None:
        module = "orchestrator.isolation.guard_process"
        self._process, sock = launch(module, self.watch_config, self._environment, self.heartbeat)
        self._channel = Channel(sock)
        self._unanswered_since = None
        for path in self._scratch:
            self._post({"scratch": {"path": path}})
        for key, watched in self._watched.items():
            self._post_registration(key, watched)

    def _post_registration(self, key: str, watched: _Watched) -> None:
        limit = max(0.0, watched.ends_at - now())
        supervisor = watched.supervisor
        self._post({"register": {"key": key, "pid": supervisor.pid, "started": supervisor.started, "limit": limit}})

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
                wait([channel], self._wait_seconds(beat_at), [channel] if channel.unsent else [])
            except (OSError, ValueError):
                return  # closed by stop()
            with self._state:
                self._read(channel)
                if not channel.closed and not self._is_unresponsive():
                    continue
                if self._stopping:
                    return
                replaced = self._replace()
            if not replaced:
                if self._on_lost is not None:
                    self._on_lost("the guard process is gone and could not be replaced")
                return

    def _wait_seconds(self, beat_at: float) -> float:
        return 1.0 if self._beat_seconds is None else min(1.0, max(0.0, beat_at - now()))

    def _read(self, channel: Channel) -> None:
        channel.flush()
        try:
            messages = channel.pull()
        except FrameError:
            logger.exception("the guard sent something unreadable")
            channel.close()
            return
        for message in messages:
            if "pong" in message:
                self._unanswered_since = None
            elif "ended" in message:
                ended = message["ended"]
                watched = self._watched.get(ended["key"])
                if watched is not None and watched.report is None:
                    watched.report = GuardReport(ended["reason"], ended["processes"])
        self._state.notify_all()

    def _is_unresponsive(self) -> bool:
        """The guard lives but does not answer: it was stopped. Call it after its answers were read."""
        return self._unanswered_since is not None and now() - self._unanswered_since > self.silence_seconds

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
        logger.critical("the guard is lost: running steps are ended and no step starts")
        return False
