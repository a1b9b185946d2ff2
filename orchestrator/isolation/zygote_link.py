"""The worker's end of a zygote."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence

from orchestrator.isolation.frames import Channel, wait
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.launch import launch
from orchestrator.isolation.posix import now

logger = logging.getLogger(__name__)

PRELOAD_SECONDS = 120.0
STOP_SECONDS = 5.0


class ZygoteGone(Exception):
    """The zygote, or a process that it forked, has died; another zygote may work."""


class SpareProcessGone(ZygoteGone):
    """A forked process has died before it got its step; its zygote may be alive."""


class PreloadFailed(RuntimeError):
    """A module of the steps cannot be imported; the message has its traceback."""


class ZygoteLink:
    """A running zygote. Safe to use from several threads."""

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str], guard: Guard) -> None:
        config = {"preload": list(preload), **guard.watch_config}
        self._process, sock = launch("orchestrator.isolation.zygote", config, environment, guard.heartbeat)
        self._channel = Channel(sock)
        self._lock = threading.Lock()
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait for the modules to be loaded.

        Raises:
            PreloadFailed: one of them cannot be.
            ZygoteGone: the process died.
        """
        ends_at = now() + PRELOAD_SECONDS
        while not self._ready:
            is_over = now() >= ends_at  # before the read: this process may have been stopped since the last one
            self._read(max(0.0, ends_at - now()))
            if is_over and not self._ready:
                raise PreloadFailed(f"the steps' modules were not imported within {PRELOAD_SECONDS:.0f} s")

    def fork(self, descriptors: Sequence[int]) -> None:
        """Request a supervisor and a child that own these descriptors: the child's, the supervisor's, the output's."""
        with self._lock:
            try:
                socket.send_fds(self._channel.sock, [b"f"], descriptors)
            except OSError as error:
                raise ZygoteGone(f"the zygote (pid {self.pid}) has gone: {error}") from None

    def _read(self, timeout_seconds: float) -> None:
        wait([self._channel], timeout_seconds)
        with self._lock:
            for message in self._channel.pull():
                if "failed" in message:
                    failed = message["failed"]
                    raise PreloadFailed(f"steps cannot run: importing {failed['module']} failed\n{failed['traceback']}")
                if "ready" in message:
                    self._ready = True
                    if message["ready"]["threads"] > 1:
                        logger.warning(
                            "importing the steps' modules started %d threads, which the steps' processes will lack",
                            message["ready"]["threads"] - 1,
                        )
            if self._channel.closed:
                raise ZygoteGone(f"the zygote (pid {self.pid}) has gone")

    def discard(self) -> None:
        """End the zygote only. The processes that it forked continue: supervisors need no zygote."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def close(self) -> None:
        """End the zygote, after its supervisors have ended."""
        self._channel.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.error("the zygote (pid %d) does not stop; killing it", self.pid)
            self._process.kill()
            self._process.wait()
