"""The right to write to a SQLite database, which has one writer at a time.

SQLite's own lock goes to whoever asks at the right moment, and its busy handler pauses up to 100 ms between two tries,
so a process that writes without a break keeps the others out for seconds. Here the threads of a process write in the
order in which they asked. Each process holds a `flock` on a file beside the database while it asks for SQLite's lock,
so a process that has just written queues behind one that is waiting.

Invariants: SQLite's own lock alone decides who may write. The `flock` is a hint: where it cannot be had, the order
between processes is lost, and nothing else. A process that dies gives it up; one that is stopped while it holds it
delays each transaction of the others by `HINT_SECONDS`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

log = logging.getLogger(__name__)

#: Most seconds to wait for a writer of another process.
BUSY_SECONDS = 15.0
#: Most seconds to wait for a process that asked before.
HINT_SECONDS = 1.0
#: The hint's file is named after the database's.
HINT_SUFFIX = "-room"


class FifoLock:
    """A lock that goes to the thread that has waited longest. `threading.Lock` goes to any of them."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False

    @property
    def waiting(self) -> int:
        """Threads that wait for it."""
        return len(self._waiting)


class WriterLock(FifoLock):
    """Held by the one thread of this process that writes; `begin` begins its transaction."""

    def __init__(self, path: str) -> None:
        """`path` is the database's. The file beside it is made at the first `begin`, with the same permissions."""
        super().__init__()
        self._path = path
        self._file: int | None = None
        self._unavailable = False

    def close(self) -> None:
        """Leave no file open; the next `begin` opens it again. No thread may write meanwhile."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._unavailable = None, False

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction that writes, on a connection whose own time-out is zero. The lock is held.

        Raises:
            sqlite3.OperationalError: another process writes for longer than `BUSY_SECONDS`; or what SQLite says.
        """
        with self._hint():
            if not poll(lambda: _try_begin(connection), BUSY_SECONDS):
                connection.execute("BEGIN IMMEDIATE")

    @contextlib.contextmanager
    def _hint(self) -> Iterator[None]:
        """Hold the `flock`, unless it cannot be had."""
        held = False
        try:
            if not self._unavailable:
                self._file = self._open() if self._file is None else self._file
                held = poll(functools.partial(_try_flock, self._file), HINT_SECONDS)
        except OSError as error:  # no such file can be made, or the file system has no locks
            log.warning("processes that write to %s do not take turns in order: %s", self._path, error)
            self._unavailable = True
        try:
            yield
        finally:
            if held and self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _open(self) -> int:
        mode = os.stat(self._path).st_mode & 0o666
        file = os.open(self._path + HINT_SUFFIX, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        with contextlib.suppress(PermissionError):  # another user made it
            os.fchmod(file, mode)
        return file


def poll(condition: Callable[[], bool], seconds: float) -> bool:
    """Try until it holds, for so long: at first five times a millisecond, which is how long others' short writes take.

    SQLite has no notification of its lock, and a `flock` cannot be waited for with a time-out.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > seconds:
            return False
        time.sleep(min(0.0002 + waited / 10, 0.005))
    return True


def is_busy(error: sqlite3.Error) -> bool:
    """Another process has the lock that is needed; it may be free a moment later."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _try_begin(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return False
    return True


def _try_flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
