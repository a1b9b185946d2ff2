"""A supervisor of child processes: starts them, restarts them with backoff, passes on their lines, stops them in order.

Invariants
- A child is in a session of its own, so Ctrl-C in the terminal reaches the supervisor alone, which stops in order.
- A child never outlives its supervisor: its standard input is a pipe that only the supervisor holds, and
  `end_with_parent` ends the process at once when that closes, which the kernel does for any death, kill -9 too.
  PR_SET_PDEATHSIG would not do: it fires when the *thread* that forked ends, needs code between fork and exec, and
  exists on Linux only.
- After `stop` has returned, no child runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
#: After running for so long, a child's backoff starts anew.
HEALTHY_SECONDS = 60.0
_KEPT_LINES = 20
_LAST_LINES_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A module to run, and its arguments; `stop_seconds` is the time-out of an orderly stop."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: float = 5.0
    #: Children of a lower number are stopped before those of a higher one.
    stop_order: int = 0


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    last_status: int | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    thread: threading.Thread | None = None


class Supervisor:
    """Keeps children running until `stop`. `on_line` gets each child's name and line, from several threads."""

    def __init__(self, on_line: Callable[[str, str], None]) -> None:
        self._on_line = on_line
        self._children: dict[str, _Child] = {}
        self._stopping = threading.Event()
        #: Held while a child starts, so that `stop` does not miss a starting child.
        self._starting = threading.Lock()
        self._may_begin = False

    def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it running."""
        child = _Child(spec)
        child.thread = threading.Thread(target=self._keep, args=(child,), name=f"keep-{spec.name}", daemon=True)
        self._children[spec.name] = child
        child.thread.start()

    def let_begin(self) -> None:
        """Allow the children to use database and Redis. They start earlier, and do their imports meanwhile."""
        with self._starting:
            self._may_begin = True
            for child in self._children.values():
                if child.process is not None:
                    _let_begin(child.process)

    def deaths(self, name: str) -> int:
        """How often the child ended unexpectedly."""
        return self._children[name].deaths

    def last_status(self, name: str) -> int | None:
        """The status of the child's last unexpected end; None if there was none."""
        return self._children[name].last_status

    def last_lines(self, name: str) -> list[str]:
        """The last lines that the child wrote."""
        return list(self._children[name].lines)

    def pids(self) -> dict[str, int]:
        """The running children."""
        return {
            name: child.process.pid
            for name, child in self._children.items()
            if child.process is not None and child.process.poll() is None
        }

    def stop(self) -> None:
        """End all children in order: SIGTERM, and SIGKILL after the time-out. May be called twice."""
        self._stopping.set()
        with self._starting:
            orders = sorted({child.spec.stop_order for child in self._children.values()})
        for order in orders:
            group = [child for child in self._children.values() if child.spec.stop_order == order]
            for child in group:
                _signal(child, signal.SIGTERM)
            began = time.monotonic()
            for child in group:
                _wait_or_kill(child, began + child.spec.stop_seconds)
        for child in self._children.values():
            if child.thread is not None:
                child.thread.join(timeout=5)

    def kill(self) -> None:
        """Kill all children at once."""
        self._stopping.set()
        for child in self._children.values():
            _signal(child, signal.SIGKILL)

    def _keep(self, child: _Child) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            with self._starting:
                if self._stopping.is_set():
                    return
                process = child.process = _launch(child.spec)
                if self._may_begin:
                    _let_begin(process)
            began = time.monotonic()
            # Read on another thread than the wait: a grandchild may keep the pipe open after the child has died.
            reader = threading.Thread(
                target=self._read, args=(child, process), name=f"read-{child.spec.name}", daemon=True
            )
            reader.start()
            code = process.wait()
            _close_lifeline(process)
            if self._stopping.is_set():
                return
            reader.join(timeout=_LAST_LINES_SECONDS)  # so that its last lines are available when its end is noticed
            child.last_status = code
            child.deaths += 1
            if time.monotonic() - began > HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self._emit(child, f"ended unexpectedly ({_reason(code)}); starting it again in {backoff:g} s")
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _read(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for raw in process.stdout:
                self._emit(child, raw.decode("utf-8", "replace").rstrip())

    def _emit(self, child: _Child, line: str) -> None:
        child.lines.append(line)
        self._on_line(child.spec.name, line)


def end_with_parent() -> threading.Event:
    """In a supervised child: end this process at once when the supervisor is gone.

    At once: running steps are rescued as after any crash, and the ports are free for the next start.

    Returns: an event that is set once the supervisor lets its children begin.
    """
    may_begin = threading.Event()

    def watch() -> None:
        while True:
            try:
                if not os.read(0, 4096):
                    break
                may_begin.set()
            except InterruptedError:
                continue
            except OSError:
                break
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    return may_begin


def _let_begin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # it has just ended; its successor gets the byte when it starts
        process.stdin.write(b"\n")
        process.stdin.flush()


def _launch(spec: ChildSpec) -> subprocess.Popen[bytes]:
    # -P keeps the working directory off the path: an actors.py there must not hide this package.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", spec.module, *spec.arguments],
        env={**os.environ, **spec.environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _signal(child: _Child, number: int) -> None:
    if child.process is not None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)


def _wait_or_kill(child: _Child, until: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        logger.warning("%s did not stop within %g s; killing it", child.spec.name, child.spec.stop_seconds)
        _signal(child, signal.SIGKILL)
        child.process.wait(timeout=10)


def _close_lifeline(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
