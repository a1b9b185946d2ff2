"""Who writes to a SQLite database next: threads in order, and the process that waits before the one that comes back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from tenants import sqlite_turns
from tenants.database import Database
from tenants.errors import Unavailable
from tenants.sqlite_turns import InOrder, WritersTurn

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60.0

_SIT_DOWN = """
import sys
from tenants.sqlite_turns import WaitingRoom
with WaitingRoom(sys.argv[1]).sit():
    print("seated", flush=True)
    sys.stdin.read()
"""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "x.db"
    with contextlib.closing(sqlite3.connect(made)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE noted (name TEXT)")
    return made


@pytest.fixture
def seated(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in the waiting room."""
    command = [sys.executable, "-c", _SIT_DOWN, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "seated\n"
        yield process
        process.kill()


def connect(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False))


def note(turn: WritersTurn, connection: sqlite3.Connection, name: str) -> None:
    with turn:
        turn.begin(connection)
        connection.execute("INSERT INTO noted VALUES (?)", (name,))
        connection.execute("COMMIT")


def noted(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM noted ORDER BY rowid")]


def test_threads_come_in_the_order_in_which_they_asked() -> None:
    lock, came = InOrder(), []

    def come(number: int) -> None:
        with lock:
            came.append(number)

    with ThreadPoolExecutor(5) as threads:
        with lock:
            for number in range(5):
                threads.submit(come, number)
                until(lambda number=number: len(lock._waiting) == number + 1)  # type: ignore[misc]
        with lock:
            came.append(5)
    assert came == [0, 1, 2, 3, 4, 5]


def test_many_threads_have_the_turn_one_at_a_time_and_none_waits_for_ever() -> None:
    lock, inside, most = InOrder(), 0, 0

    def come(_: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            time.sleep(0)
            inside -= 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert len(list(threads.map(come, range(4000), timeout=PATIENCE_SECONDS))) == 4000
    finally:
        sys.setswitchinterval(before)
    assert most == 1
    assert lock._holder is None


def test_whoever_leaves_while_the_turn_is_still_being_noted_as_its_own_hands_it_on() -> None:
    lock = InOrder()

    class Gate:
        """Of a thread that is done before the one that opened it goes on."""

        locked = staticmethod(lambda: True)

        def release(self) -> None:
            leaving.append(threads.submit(lock.leave))
            with contextlib.suppress(TimeoutError):
                leaving[0].result(0.2)

    leaving: list[Future[None]] = []
    with ThreadPoolExecutor(1) as threads:
        with lock:
            lock._waiting.append(Gate())  # type: ignore[arg-type]
        leaving[0].result(PATIENCE_SECONDS)
    assert lock._holder is None


def test_an_interrupted_thread_gives_up_its_place() -> None:
    lock = InOrder()

    def interrupt(*_: object) -> None:
        raise InterruptedError

    def interrupt_who_waits() -> None:
        until(lambda: bool(lock._waiting))
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with lock:
            thread = threading.Thread(target=interrupt_who_waits)
            thread.start()
            with pytest.raises(InterruptedError), lock:
                pytest.fail("it is held")
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not lock._waiting
    with lock:
        assert lock._holder is not None
    assert lock._holder is None


def test_whoever_waits_writes_before_one_that_comes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two turns on a file stand for two processes: each has the file open for itself."""
    monkeypatch.setattr(sqlite_turns, "ROOM_SECONDS", PATIENCE_SECONDS)
    here, there = WritersTurn(str(path)), WritersTurn(str(path))
    with ThreadPoolExecutor(1) as threads, connect(path) as first, connect(path) as second:
        for _ in range(20):
            with here:
                here.begin(first)
                waiting = threads.submit(note, there, second, "waits")
                until(lambda: here._room.taken)
                first.execute("INSERT INTO noted VALUES ('began')")
                first.execute("COMMIT")
            note(here, first, "comes back")
            waiting.result(PATIENCE_SECONDS)
        assert noted(first) == ["began", "waits", "comes back"] * 20
        assert not here._room.taken


def test_a_process_that_dies_in_the_waiting_room_leaves_it(path: Path, seated: subprocess.Popen[str]) -> None:
    turn = WritersTurn(str(path))
    assert turn._room.taken
    seated.kill()
    seated.wait()
    assert turn._room.taken, "nobody has looked since"
    with connect(path) as connection:
        note(turn, connection, "one")
        assert noted(connection) == ["one"]
    assert not turn._room.taken


def test_a_process_that_stands_still_in_the_waiting_room_is_passed_by(
    path: Path, seated: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_turns, "ROOM_SECONDS", 0.05)
    seated.send_signal(signal.SIGSTOP)
    turn = WritersTurn(str(path))
    with connect(path) as connection:
        note(turn, connection, "one")
        assert noted(connection) == ["one"]
    assert turn._room.taken, "it still sits there"


def test_the_waiting_room_has_the_databases_permissions(path: Path) -> None:
    path.chmod(0o660)
    assert not WritersTurn(str(path))._room.taken
    assert stat.S_IMODE((path.parent / "x.db-room").stat().st_mode) == 0o660


def test_a_closed_database_leaves_no_file_open(sqlite_url: str) -> None:
    def rooms() -> int:
        found = 0
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                found += each.readlink().name.endswith(sqlite_turns.ROOM_SUFFIX)
        return found

    before = rooms()
    database = Database(sqlite_url)
    for _ in range(2):
        database.write(lambda connection: connection.execute(text("SELECT 1")))
        assert rooms() > before
        database.close()
        assert rooms() == before


@pytest.mark.parametrize("fault", ["a folder in its place", "a full disk", "no locks"])
def test_without_a_waiting_room_sqlites_own_lock_decides(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC if fault == "a full disk" else errno.ENOLCK, "refused")

    if fault == "a folder in its place":
        (path.parent / "x.db-room").mkdir()
    else:
        monkeypatch.setattr(*((os, "pwrite") if fault == "a full disk" else (fcntl, "flock")), refuse)
    here, there = WritersTurn(str(path)), WritersTurn(str(path))
    with ThreadPoolExecutor(1) as threads, connect(path) as first, connect(path) as second:
        with here:
            here.begin(first)
            waiting = threads.submit(note, there, second, "two")
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
            first.execute("INSERT INTO noted VALUES ('one')")
            first.execute("COMMIT")
        waiting.result(PATIENCE_SECONDS)
        assert noted(first) == ["one", "two"]
    assert ("do not wait in order" in caplog.text) == (fault != "no locks")


def test_what_is_no_database_is_said_by_sqlite(path: Path) -> None:
    path.write_bytes(b"nothing of the kind" * 100)
    with connect(path) as connection, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        note(WritersTurn(str(path)), connection, "one")


def test_a_database_that_another_process_has_for_itself_is_waited_for_by_readers(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite locks readers out while a database is opened again after a crash, and while its last user leaves."""
    database = Database(sqlite_url)
    database.write(lambda connection: connection.execute(text("CREATE TABLE noted (name TEXT)")))
    database.engine.dispose()
    count = text("SELECT count(*) FROM noted")
    with connect(Path(str(database.url.database))) as owner:
        owner.execute("PRAGMA locking_mode=EXCLUSIVE")
        owner.execute("INSERT INTO noted VALUES ('one')")
        monkeypatch.setattr(sqlite_turns, "BUSY_SECONDS", 0.1)
        with pytest.raises(Unavailable, match="locked"):
            database.read(lambda connection: connection.execute(count).scalar_one())
        monkeypatch.setattr(sqlite_turns, "BUSY_SECONDS", PATIENCE_SECONDS)
        leaving = threading.Timer(0.2, owner.close)
        leaving.start()
        assert database.read(lambda connection: connection.execute(count).scalar_one()) == 1
        leaving.join()
    database.close()
