"""Whose turn it is to write to a SQLite database, which has one writer at a time.

SQLite itself lets whoever asks at the right moment be next, and a waiting process asks with pauses of up to 100 ms: one
that writes without a break keeps the others out for seconds. Here threads of a process come in the order in which they
asked. Among processes, one that waits sits down in the waiting room, asks several times a millisecond, and everybody
who sees it there lets it go first.

Invariants: SQLite's own lock alone decides who may write. The waiting room only says who asks next, so it may be lost,
stale or not to be had (a file that cannot be locked or opened) and nothing is written that should not be. A process
that dies in it leaves it; one that stands still in it holds the others up for a second at each turn, for no longer.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

from .combining import nothing

log = logging.getLogger(__name__)

#: Seconds to wait for a writer of another process.
BUSY_SECONDS = 15.0
#: Seconds to wait for whoever waits already.
ROOM_SECONDS = 1.0
#: The name of the waiting room, after the database's own.
ROOM_SUFFIX = "-room"


class InOrder:
    """A lock that its holder hands to the thread that has waited longest. A plain one goes to whoever is quick."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        #: The gate of the thread that has the turn.
        self._holder: threading.Lock | None = None
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        self.enter(nothing)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def enter(self, before_waiting: Callable[[], None]) -> None:
        gate = threading.Lock()
        gate.acquire()
        try:
            with self._mutex:
                if self._holder is None:
                    self._holder = gate
                else:
                    self._waiting.append(gate)
            if self._holder is not gate:
                before_waiting()
                gate.acquire()
        except BaseException:
            with self._mutex:
                if gate in self._waiting:
                    self._waiting.remove(gate)
            self._leave(gate)  # it may have been given to us at the last moment
            raise

    def leave(self) -> None:
        with self._mutex:  # whoever gave us the turn may be about to note it
            gate = self._holder
        try:
            self._leave(gate)
        except BaseException:  # an interrupt, which comes once
            self._leave(gate)
            raise

    def _leave(self, gate: threading.Lock | None) -> None:
        with self._mutex:
            if self._holder is not gate:
                return
            following = self._waiting[0] if self._waiting else None
            if following is not None:
                if following.locked():
                    following.release()
                self._waiting.popleft()
            self._holder = following


class _Seat:
    """The waiting room's file, open for as long as somebody uses it."""

    def __init__(self, path: str, mode: int) -> None:
        """Raises `OSError` where the file cannot be had."""
        self.file = -1
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        with contextlib.suppress(PermissionError):  # another user made it
            os.fchmod(self.file, mode)
        # What is looked at must have its place on the disk: a look into a hole ends the process where no room is left.
        if os.fstat(self.file).st_size == 0:
            self.say(taken=False)
        self._shared = mmap.mmap(self.file, 1, prot=mmap.PROT_READ)

    @property
    def taken(self) -> bool:
        return self._shared[0] != 0

    def say(self, *, taken: bool) -> None:
        """Written as a file, not as memory, so that a full disk is an `OSError`."""
        os.pwrite(self.file, bytes([taken]), 0)

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


class WaitingRoom:
    """Seats one process; a byte in memory that all share says whether it is taken, so that looking costs nothing."""

    def __init__(self, path: str) -> None:
        """`path` is the database's; the room's file beside it is made on the first look, with the same permissions."""
        self._path = path
        self._seat: _Seat | None = None
        self._opening = threading.Lock()
        self._missing = False

    @property
    def taken(self) -> bool:
        """Somebody waits, or died there."""
        seat = self._seat or self._open()
        return seat is not None and seat.taken

    def _open(self) -> _Seat | None:
        with self._opening:
            if self._seat is None and not self._missing:
                try:
                    self._seat = _Seat(self._path + ROOM_SUFFIX, os.stat(self._path).st_mode & 0o666)
                except OSError as error:
                    log.warning("processes that write to %s do not wait in order: %s", self._path, error)
                    self._missing = True
            return self._seat

    def close(self) -> None:
        """Leave no file open; the next look opens it again."""
        with self._opening:
            self._seat, self._missing = None, False

    @contextlib.contextmanager
    def sit(self) -> Iterator[None]:
        """Sit down, after whoever sits there, but for one that does not get on."""
        seat = self._seat or self._open()
        if seat is None or not _locked(seat.file):
            yield
            return
        try:
            with contextlib.suppress(OSError):  # then nobody sees us
                seat.say(taken=True)
            yield
        finally:
            with contextlib.suppress(OSError):
                seat.say(taken=False)
            fcntl.flock(seat.file, fcntl.LOCK_UN)


def _locked(file: int) -> bool:
    for _ in _asking(ROOM_SECONDS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError:  # no locks on this file system
            return False
        return True
    return False


class WritersTurn(InOrder):
    """A process' turns; entered by one thread at a time, which then begins its transaction."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._room = WaitingRoom(path)

    def close(self) -> None:
        """Let go of what is open, when nobody writes any more."""
        self._room.close()

    def begin(self, connection: sqlite3.Connection, before_waiting: Callable[[], None] = nothing) -> None:
        """Begin a transaction that writes, on a connection that does not wait by itself.

        Args:
            connection: see above.
            before_waiting: called once where another process writes.

        Raises:
            sqlite3.OperationalError: another process writes for longer than `BUSY_SECONDS`, after a second at most in
                which the room was taken; or what SQLite says.
        """
        if not self._room.taken and _begun(connection):
            return
        before_waiting()
        with self._room.sit():
            for _ in _asking(BUSY_SECONDS):
                if _begun(connection):
                    return
        connection.execute("BEGIN IMMEDIATE")


def _begun(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return False
    return True


def is_busy(error: sqlite3.Error) -> bool:
    """Another process has the lock that is needed; it may be free a moment later."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _asking(seconds: float) -> Iterator[None]:
    """Again and again for so long: at first five times a millisecond, as long as others' short writes take.

    SQLite tells nobody that its lock is free, and a file's lock cannot be waited for with a time-out.
    """
    began = time.monotonic()
    while True:
        yield
        waited = time.monotonic() - began
        if waited > seconds:
            return
        time.sleep(min(0.0002 + waited / 10, 0.005))
