"""Calls that go together: who runs them, who is answered what, and that a fault stays with its call."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tenants import combining
from tenants.combining import Combined, Interrupted
from tenants.database import Database
from tenants.errors import Unavailable
from tenants.sqlite_turns import WritersTurn

PATIENCE_SECONDS = 30.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Ways:
    """A `run_all` that notes what went together, and stands still until the gate opens."""

    def __init__(self, most: int = 10) -> None:
        self.ways: list[list[int]] = []
        self.gate = threading.Event()
        self.faults: dict[int, Exception] = {}
        #: Number of the way → what strikes its leader there.
        self.strikes: dict[int, BaseException] = {}
        self.combined: Combined[int, int] = Combined(self._run, most=most)

    def _run(self, items: Sequence[int], let_go: Callable[[], None]) -> list[int | Exception]:
        let_go()
        self.ways.append(list(items))
        assert self.gate.wait(PATIENCE_SECONDS)
        if (strike := self.strikes.pop(len(self.ways) - 1, None)) is not None:
            raise strike
        return [self.faults.get(item, -item) for item in items]

    def start(self, threads: ThreadPoolExecutor, *items: int) -> list[Future[int]]:
        """A call for each item, each after the one before has its place."""
        found = []
        for item in items:
            before = len(self.ways), len(self.combined._waiting)
            found.append(threads.submit(self.combined.run, item))
            until(lambda before=before: (len(self.ways), len(self.combined._waiting)) != before)  # type: ignore[misc]
        return found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def test_what_comes_while_one_is_on_the_way_goes_together_next(threads: ThreadPoolExecutor) -> None:
    ways = Ways(most=3)
    calls = ways.start(threads, 1, 2, 3, 4, 5)
    assert ways.ways == [[1]]
    ways.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2, -3, -4, -5]
    assert ways.ways == [[1], [2, 3, 4], [5]]
    assert ways.combined.run(6) == -6
    assert ways.ways[-1] == [6]


def test_a_fault_stays_with_its_call(threads: ThreadPoolExecutor) -> None:
    ways = Ways()
    ways.faults = {2: ValueError("two")}
    calls = ways.start(threads, 1, 2, 3)
    ways.gate.set()
    assert (calls[0].result(PATIENCE_SECONDS), calls[2].result(PATIENCE_SECONDS)) == (-1, -3)
    with pytest.raises(ValueError, match="two"):
        calls[1].result(PATIENCE_SECONDS)


def test_an_interrupted_leader_leaves_nobody_waiting(threads: ThreadPoolExecutor) -> None:
    ways = Ways()
    calls = ways.start(threads, 1, 2, 3)
    ways.strikes = {0: KeyboardInterrupt()}
    ways.gate.set()
    with pytest.raises(KeyboardInterrupt):
        calls[0].result(PATIENCE_SECONDS)
    assert [call.result(PATIENCE_SECONDS) for call in calls[1:]] == [-2, -3]
    assert ways.combined.run(7) == -7


@pytest.mark.parametrize("strike", [KeyboardInterrupt(), KeyError("unknown")], ids=["interrupt", "error"])
def test_a_way_that_is_led_for_others_and_fails_leaves_its_calls_open_and_nobody_waiting(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, strike: BaseException
) -> None:
    ways = Ways(most=2)
    calls = ways.start(threads, 1, 2, 3, 4)
    ways.strikes = {1: strike}
    ways.gate.set()
    assert calls[0].result(PATIENCE_SECONDS) == -1
    for call in calls[1:3]:
        with pytest.raises(Interrupted):
            call.result(PATIENCE_SECONDS)
    assert calls[3].result(PATIENCE_SECONDS) == -4
    assert "their outcome is unknown" in caplog.text
    assert ways.combined.run(7) == -7


def test_an_interrupted_call_that_still_waits_is_not_run(threads: ThreadPoolExecutor) -> None:
    ways = Ways()
    (call,) = ways.start(threads, 1)

    def interrupt(*_: object) -> None:
        raise InterruptedError

    def interrupt_who_waits() -> None:
        until(lambda: bool(ways.combined._waiting))
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threads.submit(interrupt_who_waits)
        with pytest.raises(InterruptedError):
            ways.combined.run(2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    ways.gate.set()
    assert call.result(PATIENCE_SECONDS) == -1
    assert ways.combined.run(3) == -3
    assert ways.ways == [[1], [3]]


def test_a_way_for_nobody_is_not_run() -> None:
    """As when all who waited were interrupted before the leading thread came to them."""
    ways = Ways()
    ways.combined._lead([], combining.nothing)
    assert ways.ways == []


def test_calls_of_one_kind_go_together_and_the_one_that_waited_longest_goes_first(threads: ThreadPoolExecutor) -> None:
    ways = Ways(most=2)
    ways.combined._kind_of = lambda item: item < 0
    calls = ways.start(threads, 1, -2, 3, -4, 5, -6, 7)
    ways.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, 2, -3, 4, -5, 6, -7]
    assert ways.ways == [[1], [-2, -4], [3, 5], [-6], [7]]


def test_those_who_were_answered_go_on_when_the_next_way_says_so_or_at_its_end(threads: ThreadPoolExecutor) -> None:
    """Until then they would only ask for the interpreter's lock, which the leader needs."""
    gates = {name: threading.Event() for name in ("first", "begun", "long", "end")}
    ways: list[list[int]] = []

    def run(items: Sequence[int], let_go: Callable[[], None]) -> list[int]:
        ways.append(list(items))
        if len(ways) == 1:
            assert gates["first"].wait(PATIENCE_SECONDS)
        if len(ways) == 3:
            gates["begun"].set()
            assert gates["long"].wait(PATIENCE_SECONDS)
            let_go()
            assert gates["end"].wait(PATIENCE_SECONDS)
        return list(items)

    combined: Combined[int, int] = Combined(run, most=1)
    calls = []
    for number in range(3):
        calls.append(threads.submit(combined.run, number))
        until(lambda number=number: len(ways) + len(combined._waiting) == number + 1)  # type: ignore[misc]
    gates["first"].set()
    assert calls[0].result(PATIENCE_SECONDS) == 0
    assert gates["begun"].wait(PATIENCE_SECONDS)
    with pytest.raises(TimeoutError):
        calls[1].result(0.1)
    gates["long"].set()
    assert calls[1].result(PATIENCE_SECONDS) == 1
    assert not calls[2].done()
    gates["end"].set()
    assert calls[2].result(PATIENCE_SECONDS) == 2
    assert ways == [[0], [1], [2]]


@pytest.mark.parametrize("waits_for", ["the turn", "another process", "a connection"])
def test_on_sqlite_nobody_is_held_up_who_was_answered_while_the_next_must_wait(
    sqlite_url: str, threads: ThreadPoolExecutor, waits_for: str
) -> None:
    sqlite = Database(sqlite_url, pool_size=1)
    sqlite.write(lambda connection: connection.execute(text("CREATE TABLE noted (number INTEGER PRIMARY KEY)")))
    sqlite._together._most = 1
    with contextlib.ExitStack() as stack:

        def stand_in_the_way(connection: sqlite3.Connection) -> Any:
            """As the second of three has done its part, what the third needs is taken."""
            answer = note(2)(connection)
            if waits_for == "the turn":
                threads.submit(sqlite.write, lambda c: [c.execute(text("SELECT 1")), gate.wait(PATIENCE_SECONDS)])
                until(lambda: bool(sqlite._turn._waiting))
            elif waits_for == "another process":
                threads.submit(take_the_database)
                until(lambda: sqlite._turn._room.taken)
            else:
                threads.submit(sqlite.read, lambda c: gate.wait(PATIENCE_SECONDS))
            return answer

        def take_the_database() -> None:
            other = WritersTurn(str(sqlite.url.database))
            with contextlib.closing(sqlite3.connect(str(sqlite.url.database), timeout=0, isolation_level=None)) as made:
                other.begin(made)
                gate.wait(PATIENCE_SECONDS)
                made.execute("ROLLBACK")
            other.close()

        gate = threading.Event()
        stack.callback(gate.set)
        with sqlite._turn:
            calls = [threads.submit(sqlite.run_on_sqlite, note(1))]
            until(lambda: len(sqlite._turn._waiting) == 1)
            for number, work in enumerate((stand_in_the_way, note(3)), start=1):
                calls.append(threads.submit(sqlite.run_on_sqlite, work))
                until(lambda number=number: len(sqlite._together._waiting) == number)  # type: ignore[misc]
        assert calls[0].result(PATIENCE_SECONDS)
        assert calls[1].result(PATIENCE_SECONDS)
        if waits_for != "a connection":  # which may be given to the third before the reader
            assert not calls[2].done()
        gate.set()
        assert calls[2].result(PATIENCE_SECONDS)
    assert noted(sqlite) == {1, 2, 3}
    sqlite.close()


def test_the_leading_thread_ends_without_work_and_begins_again(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combining, "IDLE_SECONDS", 0.01)
    ways = Ways()
    for _ in range(2):
        ways.gate.clear()
        calls = ways.start(threads, 1, 2)
        ways.gate.set()
        assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2]
        until(lambda: ways.combined._thread is None)
    assert ways.ways == [[1], [2], [1], [2]]


def test_where_the_system_gives_no_thread_those_who_wait_lead(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = Ways(most=1)
    calls = ways.start(threads, 1, 2, 3)

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    ways.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2, -3]
    assert ways.combined._thread is None


def test_many_threads_are_each_answered_once(threads: ThreadPoolExecutor) -> None:
    ways = Ways(most=5)
    ways.gate.set()
    numbers = range(3000)
    assert list(threads.map(ways.combined.run, numbers)) == [-number for number in numbers]
    assert sorted(number for way in ways.ways for number in way) == list(numbers)


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    opened.write(lambda connection: connection.execute(text("CREATE TABLE noted (number INTEGER PRIMARY KEY)")))
    yield opened
    opened.close()


def note(number: int, answer: Any = True) -> Callable[[sqlite3.Connection], Any]:
    def work(connection: sqlite3.Connection) -> Any:
        connection.execute("INSERT INTO noted VALUES (?)", (number,))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return work


def start_together(
    sqlite: Database, threads: ThreadPoolExecutor, *works: Callable[[sqlite3.Connection], Any]
) -> list[Future[Any]]:
    """Transactions that share a commit: they come while another writer has its turn."""
    with sqlite._writing:
        calls = [threads.submit(sqlite.run_on_sqlite, work) for work in works]
        until(lambda: len(sqlite._together._waiting) == len(works) - 1)
    return calls


def noted(sqlite: Database) -> set[int]:
    rows = sqlite.read(lambda connection: connection.execute(text("SELECT number FROM noted")).all())
    return {row.number for row in rows}


def test_on_sqlite_each_transaction_takes_effect_or_is_rolled_back_by_itself(
    sqlite: Database, threads: ThreadPoolExecutor
) -> None:
    told: list[int] = []
    sqlite.on_events = lambda: told.append(1)
    doubled, nothing, broken, refused = note(1), note(2, None), note(3, KeyError("three")), note(1)
    sqlite.run_on_sqlite(doubled)
    calls = start_together(sqlite, threads, note(10), nothing, broken, refused, note(11))
    assert calls[0].result(PATIENCE_SECONDS)
    assert calls[1].result(PATIENCE_SECONDS) is None
    with pytest.raises(KeyError, match="three"):
        calls[2].result(PATIENCE_SECONDS)
    with pytest.raises(IntegrityError):
        calls[3].result(PATIENCE_SECONDS)
    assert calls[4].result(PATIENCE_SECONDS)
    assert noted(sqlite) == {1, 10, 11}
    assert len(told) == 2, "one commit for the first, one for all others"


def test_on_sqlite_a_transaction_that_finds_the_disk_full_fails_alone(
    sqlite: Database, threads: ThreadPoolExecutor
) -> None:
    def fill(connection: sqlite3.Connection) -> bool:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        try:
            connection.execute("CREATE TABLE large AS SELECT zeroblob(1000000)")
        finally:
            connection.execute("PRAGMA max_page_count = 1000000")
        return True

    first, full, last = start_together(sqlite, threads, note(1), fill, note(2))
    with pytest.raises(Unavailable, match="full"):
        full.result(PATIENCE_SECONDS)
    assert first.result(PATIENCE_SECONDS)
    assert last.result(PATIENCE_SECONDS)
    assert noted(sqlite) == {1, 2}


def test_on_sqlite_a_database_that_cannot_be_opened_is_unavailable_to_each(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/missing/x.db")
    failures = [call.exception(PATIENCE_SECONDS) for call in start_together(nowhere, threads, *map(note, range(3)))]
    # Nothing was begun, so nobody is told that the outcome is unknown; and no two threads raise the same error.
    assert [type(each) for each in failures] == [Unavailable] * 3
    assert len(set(map(id, failures))) == 3


def test_on_sqlite_a_commit_that_fails_fails_for_each_by_itself(sqlite: Database, threads: ThreadPoolExecutor) -> None:
    def end_it_all(connection: sqlite3.Connection) -> bool:
        connection.execute("ROLLBACK")  # as SQLite does by itself when the disk fails
        return True

    calls = start_together(sqlite, threads, note(1), end_it_all, note(2))
    failures = [call.exception(PATIENCE_SECONDS) for call in calls]
    assert [type(each) for each in failures] == [Unavailable] * 3
    assert len(set(map(id, failures))) == 3
    assert noted(sqlite) == set()
    assert sqlite.run_on_sqlite(note(3))
    assert noted(sqlite) == {3}


def test_on_sqlite_an_interrupted_leader_leaves_the_others_outcome_open(
    sqlite: Database, threads: ThreadPoolExecutor
) -> None:
    calls = start_together(sqlite, threads, note(1), note(2), note(3, KeyboardInterrupt()))
    outcomes = {type(call.exception(PATIENCE_SECONDS)).__name__: call for call in calls}
    assert set(outcomes) == {"KeyboardInterrupt", "CommitUnknown"}
    assert noted(sqlite) == set()
    assert sqlite.run_on_sqlite(note(4))
    assert noted(sqlite) == {4}
