"""Which writer of a SQLite database is next: threads in order, and a waiting process before one that wrote last."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from tenants.database import sqlite_writer_lock
from tenants.database.sqlite_writer_lock import HINT_SUFFIX, FifoLock, WriterLock
from tenants.database.transactions import Database
from tenants.errors import Unavailable
from tests import ROOT

PATIENCE_SECONDS = 60.0

_HOLD_THE_HINT = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
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
def waiting_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the hint as one does that waits."""
    command = [sys.executable, "-c", _HOLD_THE_HINT, f"{path}{HINT_SUFFIX}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def is_hinted(path: Path) -> bool:
    """Some process waits for its turn to write."""
    with open(f"{path}{HINT_SUFFIX}", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def connect(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False))


def note(lock: WriterLock, connection: sqlite3.Connection, name: str) -> None:
    with lock:
        lock.begin(connection)
        connection.execute("INSERT INTO noted VALUES (?)", (name,))
        connection.execute("COMMIT")


def noted(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM noted ORDER BY rowid")]


def test_threads_come_in_the_order_in_which_they_asked() -> None:
    lock, came = FifoLock(), []

    def come(number: int) -> None:
        with lock:
            came.append(number)

    with ThreadPoolExecutor(5) as threads:
        with lock:
            for number in range(5):
                threads.submit(come, number)
                until(lambda number=number: lock.waiting == number + 1)  # type: ignore[misc]
        with lock:
            came.append(5)
    assert came == [0, 1, 2, 3, 4, 5]


def test_many_threads_hold_the_lock_one_at_a_time_and_each_gets_it() -> None:
    lock, inside, most = FifoLock(), 0, 0

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
    assert lock.waiting == 0
    with lock:
        pass


def test_a_waiting_process_writes_before_one_that_wrote_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two locks on a file stand for two processes: each has the file open for itself."""
    monkeypatch.setattr(sqlite_writer_lock, "HINT_SECONDS", PATIENCE_SECONDS)
    here, there = WriterLock(str(path)), WriterLock(str(path))
    with ThreadPoolExecutor(1) as threads, connect(path) as first, connect(path) as second:
        for _ in range(20):
            with here:
                here.begin(first)
                waiting = threads.submit(note, there, second, "waits")
                until(lambda: is_hinted(path))
                first.execute("INSERT INTO noted VALUES ('began')")
                first.execute("COMMIT")
            note(here, first, "comes back")
            waiting.result(PATIENCE_SECONDS)
        assert noted(first) == ["began", "waits", "comes back"] * 20
        assert not is_hinted(path)


def test_a_process_that_dies_while_it_waits_delays_nobody(
    path: Path, waiting_process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer_lock, "HINT_SECONDS", PATIENCE_SECONDS)
    assert is_hinted(path)
    waiting_process.kill()
    waiting_process.wait()
    with connect(path) as connection:
        note(WriterLock(str(path)), connection, "one")
        assert noted(connection) == ["one"]
    assert not is_hinted(path)


def test_a_process_that_is_stopped_while_it_waits_keeps_nobody_from_writing(
    path: Path, waiting_process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer_lock, "HINT_SECONDS", 0.05)
    waiting_process.send_signal(signal.SIGSTOP)
    with connect(path) as connection:
        note(WriterLock(str(path)), connection, "one")
        assert noted(connection) == ["one"]
    assert is_hinted(path), "it still holds it"


def test_the_hints_file_has_the_databases_permissions(path: Path) -> None:
    path.chmod(0o660)
    with connect(path) as connection:
        note(WriterLock(str(path)), connection, "one")
    assert stat.S_IMODE((path.parent / "x.db-room").stat().st_mode) == 0o660


def test_a_closed_database_leaves_no_file_open(sqlite_url: str) -> None:
    def hints() -> int:
        found = 0
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                found += each.readlink().name.endswith(HINT_SUFFIX)
        return found

    before = hints()
    database = Database(sqlite_url)
    for _ in range(2):
        database.write(lambda connection: connection.execute(text("SELECT 1")))
        assert hints() > before
        database.close()
        assert hints() == before


@pytest.mark.parametrize("fault", ["a folder in its place", "no locks"])
def test_without_the_hint_sqlites_own_lock_decides(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "refused")

    if fault == "a folder in its place":
        (path.parent / "x.db-room").mkdir()
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    here, there = WriterLock(str(path)), WriterLock(str(path))
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
    assert caplog.text.count("do not take turns in order") == 2, "once for each of both"


def test_sqlites_own_error_is_raised_for_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"nothing of the kind" * 100)
    with connect(path) as connection, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        note(WriterLock(str(path)), connection, "one")


def test_readers_wait_for_a_database_that_another_process_has_locked(
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
        monkeypatch.setattr(sqlite_writer_lock, "BUSY_SECONDS", 0.1)
        with pytest.raises(Unavailable, match="locked"):
            database.read(lambda connection: connection.execute(count).scalar_one())
        monkeypatch.setattr(sqlite_writer_lock, "BUSY_SECONDS", PATIENCE_SECONDS)
        leaving = threading.Timer(0.2, owner.close)
        leaving.start()
        assert database.read(lambda connection: connection.execute(count).scalar_one()) == 1
        leaving.join()
    database.close()
