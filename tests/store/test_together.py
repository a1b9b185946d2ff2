"""Steps of several threads that start and end in the same statements: each has an answer of its own.

What a single step's start and end do is said in `test_steps` and `test_races`, which go by the same statements.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DataError, IntegrityError

from tenants.combining import nothing
from tenants.database import CommitUnknown, Database
from tenants.errors import Unavailable
from tenants.store import dispatch
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.dispatch import Dispatch
from tenants.store.new_jobs import StepPlan
from tests.store.conftest import Bench

on_postgresql = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)

PATIENCE_SECONDS = 60.0
ONE_STEP = (StepPlan("generate", "generate", True, 3),)
_NOTE = """
    WITH noted AS (
        INSERT INTO meta (key, value) SELECT name, 'x' FROM unnest(%(name)s::varchar[]) AS g(name)
        WHERE name <> 'nothing' RETURNING key, array_position(%(name)s::varchar[], key) AS place
    )
    SELECT json_agg(noted) FROM noted
"""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


class Turn:
    """Holds up whoever goes first, until all others have come."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self._database = database
        self._armed = False
        self._comes, self._goes = threading.Event(), threading.Event()
        #: How many went together, each time.
        self.sizes: list[int] = []
        run_all = database._together._run_all

        def held_up(*given: Any) -> Any:
            if not self._armed:
                return run_all(*given)
            self.sizes.append(len(given[0]))
            if not self._comes.is_set():
                self._comes.set()
                assert self._goes.wait(PATIENCE_SECONDS)
            return run_all(*given)

        monkeypatch.setattr(database._together, "_run_all", held_up)

    def share(self, threads: ThreadPoolExecutor, first: Callable[[], Any], *others: Callable[[], Any]) -> list[Any]:
        """The answers, or what was raised: the first goes alone, all others together."""
        self._armed = True
        calls: list[Future[Any]] = [threads.submit(first)]
        assert self._comes.wait(PATIENCE_SECONDS)
        shared = self._database._together
        for number, other in enumerate(others, start=1):
            calls.append(threads.submit(other))
            until = time.monotonic() + PATIENCE_SECONDS
            while len(shared._waiting) < number:
                assert time.monotonic() < until, "it did not come along"
                time.sleep(0.002)
        self._goes.set()
        return [call.exception(PATIENCE_SECONDS) or call.result() for call in calls]


@pytest.fixture
def turn(database: Database, monkeypatch: pytest.MonkeyPatch) -> Turn:
    return Turn(database, monkeypatch)


def note_statement(items: Sequence[Mapping[str, Any]]) -> str:
    return _NOTE


def note(database: Database, name: str) -> Callable[[], Any]:
    return lambda: database.run_together(note_statement, {"name": name})


def noted(database: Database) -> set[str]:
    rows = database.read(lambda c: c.execute(text("SELECT key FROM meta WHERE value = 'x'")).scalars().all())
    return set(rows)


# --- what goes together --------------------------------------------------------------------------------------------


@on_postgresql
def test_each_has_its_own_row_or_none(database: Database, turn: Turn, threads: ThreadPoolExecutor) -> None:
    told: list[int] = []
    database.on_events = lambda: told.append(1)
    names = ["a", "b", "nothing", "c"]
    answers = turn.share(threads, *(note(database, name) for name in names))
    assert [answer and answer["key"] for answer in answers] == ["a", "b", None, "c"]
    assert turn.sizes == [1, 3]
    assert len(told) == 2


@on_postgresql
def test_values_arrive_as_they_were_given(database: Database, turn: Turn, threads: ThreadPoolExecutor) -> None:
    names = ["first", 'a "quoted" one', "back\\slash\\", "{br,aces}", "NULL", " spaces\nand lines ", "Ünïcödé 🐘", ""]
    answers = turn.share(threads, *(note(database, name) for name in names))
    assert [answer["key"] for answer in answers] == names


@on_postgresql
def test_one_that_is_refused_hinders_nobody(database: Database, turn: Turn, threads: ThreadPoolExecutor) -> None:
    answers = turn.share(threads, *(note(database, name) for name in ("a", "b", "a", "c")))
    assert isinstance(answers[2], IntegrityError), answers
    assert [answers[number]["key"] for number in (0, 1, 3)] == ["a", "b", "c"]
    assert noted(database) >= {"a", "b", "c"}


@on_postgresql
@pytest.mark.parametrize("failure", [CommitUnknown("the connection was lost"), Unavailable("nobody answers")])
def test_a_failure_is_everybodys_and_each_has_an_error_of_its_own(
    database: Database,
    turn: Turn,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    failure: Unavailable,
) -> None:
    run = database._run_for_rows

    def fail(statement: str, arrays: Mapping[str, Any], let_go: Callable[[], None]) -> list[Any]:
        if "," in arrays["name"]:
            raise failure
        return run(statement, arrays, let_go)

    monkeypatch.setattr(database, "_run_for_rows", fail)
    first, *others = turn.share(threads, *(note(database, name) for name in ("a", "b", "c")))
    assert first["key"] == "a"
    assert [type(error) for error in others] == [type(failure)] * 2
    assert [str(error) for error in others] == [str(failure)] * 2
    assert others[0] is not others[1]


@on_postgresql
def test_what_the_driver_forgot_after_a_rollback_is_prepared_again(database: Database) -> None:
    """The driver lets go of all prepared statements of a connection then, and not only of its own."""

    def run(number: int) -> None:
        statement = f"SELECT json_build_array(json_build_object('place', {number}))"
        assert database._run_for_rows(statement, {}, nothing) == [{"place": number}]

    for number in (1, 2):
        run(number)
    with closing(database.engine.raw_connection()) as pooled:  # the one that was used last
        driver = pooled.driver_connection
        assert driver is not None
        driver.execute("SELECT 1", prepare=True)
        driver.rollback()
        driver.execute("SELECT 1")
        count = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'onelane%'"
        assert driver.execute(count).fetchone() == (0,)
    for number in (3, 1, 2, 3):
        run(number)


@on_postgresql
def test_a_text_that_the_database_cannot_hold_is_refused(database: Database) -> None:
    with pytest.raises(DataError, match="NUL"):
        note(database, "a\0b")()
    assert noted(database) == set()


# --- steps that go together ----------------------------------------------------------------------------------------


def test_steps_of_several_accounts_start_and_end_together(
    bench: Bench, turn: Turn, threads: ThreadPoolExecutor
) -> None:
    made = [bench.make(f"account-{number}") for number in range(4)]
    started = turn.share(threads, *(lambda step=step: bench.start(step.id) for _, step in made))
    assert turn.sizes == [1, 3]
    assert [owned.step_id for owned in started] == [step.id for _, step in made]
    assert {(owned.run_token, owned.attempt) for owned in started} == {(1, 1)}
    bench.complete(started[0], {"of": 0})
    with ThreadPoolExecutor(3) as all_at_once:
        list(all_at_once.map(lambda n: bench.complete(started[n], {"of": n}), range(1, 4)))
    for number, (job_id, _) in enumerate(made):
        first, second = bench.steps(job_id)
        assert (first["status"], first["output"], second["status"]) == ("completed", {"of": number}, "queued")
        assert [each["outcome"] for each in bench.attempts(job_id)] == ["completed"]
        assert bench.job(job_id)["current_step"] == "publish"


def test_what_is_out_of_the_ordinary_for_one_is_so_for_none_else(
    bench: Bench, turn: Turn, threads: ThreadPoolExecutor
) -> None:
    """Beyond its concurrency, a slot that is taken, a paused account, a step that is gone: the others start."""
    first, beyond, taken, paused, fine = (bench.make(name, steps=ONE_STEP)[1].id for name in "abcde")
    bench.limit("c", {"lanes": {"generate": {"concurrency": 2}}})
    bench.own(bench.make("c", steps=ONE_STEP)[1].id, slot=0)
    bench.write(lambda c: c.execute(text("UPDATE accounts SET status = 'paused' WHERE id = 'd'")))
    answers = turn.share(
        threads,
        lambda: bench.start(first),
        lambda: bench.start(beyond, slot=1),
        lambda: bench.start(taken, slot=0),
        lambda: bench.start(paused),
        lambda: bench.start("01900000-0000-7000-8000-000000000000"),
        lambda: bench.start(fine),
    )
    assert turn.sizes[:2] == [1, 5]
    assert [type(answer) for answer in answers] == [OwnedAttempt, Refused, Refused, Refused, NotRunnable, OwnedAttempt]


def test_a_step_that_two_threads_start_at_once_starts_once(
    bench: Bench, turn: Turn, threads: ThreadPoolExecutor
) -> None:
    """Its message came twice, say. The other steps of that moment start all the same."""
    bench.limit("a", {"lanes": {"generate": {"concurrency": 2}}})
    first, twice, fine = (bench.make(name, steps=ONE_STEP)[1].id for name in ("x", "a", "b"))
    answers = turn.share(
        threads,
        lambda: bench.start(first),
        lambda: bench.start(twice, slot=0),
        lambda: bench.start(twice, slot=1),
        lambda: bench.start(fine),
    )
    assert isinstance(answers[0], OwnedAttempt)
    assert isinstance(answers[3], OwnedAttempt)
    assert sorted(type(answer).__name__ for answer in answers[1:3]) == ["OwnedAttempt", "Refused"]


@on_postgresql
def test_a_job_that_is_held_elsewhere_is_waited_for_by_its_own_step_alone(
    bench: Bench, turn: Turn, threads: ThreadPoolExecutor
) -> None:
    (held_job, held), (_, first), (free_job, free) = (bench.make(name, steps=ONE_STEP) for name in "abc")
    with bench.database.engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": held_job})
        calls = threads.submit(
            turn.share,
            threads,
            lambda: bench.start(first.id),
            lambda: bench.start(held.id),
            lambda: bench.start(free.id),
        )
        until = time.monotonic() + PATIENCE_SECONDS
        while bench.job(free_job)["status"] != "running":
            assert time.monotonic() < until, "it waits for another step's job"
            time.sleep(0.01)
        assert bench.job(held_job)["status"] == "queued"
        holder.rollback()
        assert [type(answer) for answer in calls.result(PATIENCE_SECONDS)] == [OwnedAttempt, OwnedAttempt, OwnedAttempt]


@on_postgresql
def test_marking_passes_over_a_step_that_is_held(bench: Bench) -> None:
    """A start holds several steps at once, as marking does: neither may wait for the other."""
    held, free = (bench.make(name)[1].id for name in "ab")
    with bench.database.engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM steps WHERE id = :id FOR UPDATE"), {"id": held})
        dispatch.mark_first_dispatch(bench.database, [held, free])
        bench.write(lambda c: dispatch.mark_dispatched(c, [held, free]))
        holder.rollback()
    marked = text("SELECT id FROM steps WHERE dispatched_at IS NOT NULL")
    assert bench.database.read(lambda c: c.execute(marked).scalars().all()) == [free]


@on_sqlite
def test_what_is_large_or_of_any_letters_comes_back_as_it_was(
    bench: Bench, turn: Turn, threads: ThreadPoolExecutor
) -> None:
    outputs = [{"text": text} for text in ("x" * 300_000, 'a "quote", a \\ and a\0', "Ünïcödé 🐘 \ud800", "[1]")]
    made = [bench.make(f"account-{number}") for number in range(4)]
    started = [bench.own(step.id) for _, step in made]
    turn.share(
        threads, *(lambda own=own, out=out: bench.complete(own, out) for own, out in zip(started, outputs, strict=True))
    )
    assert turn.sizes == [1, 3]
    for (job_id, _), output in zip(made, outputs, strict=True):
        _, second = bench.steps(job_id)
        assert bench.own(second["id"]).outputs == {"generate": output}


# --- what they cost ------------------------------------------------------------------------------------------------


def rows_read(database: Database) -> int:
    """Rows of tables that statements have looked at, since the server counts."""
    database.run_one("SELECT pg_stat_force_next_flush()", {})
    (found,) = database.run_one(
        "SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0) AS rows "
        "FROM pg_stat_user_tables",
        {},
    )
    return int(found.rows)


@on_sqlite
def test_several_take_no_more_statements_than_one(
    bench: Bench, database: Database, turn: Turn, threads: ThreadPoolExecutor
) -> None:
    """Each row that a statement gives or writes by itself would wait for the interpreter's lock."""
    said: list[str] = []
    event.listen(database.engine.pool, "checkout", lambda connection, *_: connection.set_trace_callback(said.append))
    made = [bench.make(f"account-{number}", steps=ONE_STEP)[1].id for number in range(5)]
    said.clear()
    started = [bench.own(made[0])]
    start_of_one = len(said)
    started += turn.share(threads, *(lambda step=step: bench.own(step) for step in made[1:]))
    assert turn.sizes == [1, 3]
    assert len(said) == 3 * start_of_one
    said.clear()
    for owned in started[:2]:
        bench.complete(owned, {})
    end_of_two = len(said)
    with database._writing:
        calls = [threads.submit(bench.complete, owned, {}) for owned in started[2:]]
        until = time.monotonic() + PATIENCE_SECONDS
        while len(database._together._waiting) < 2:
            assert time.monotonic() < until, "they did not come together"
            time.sleep(0.002)
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [None] * 3
    assert 2 * (len(said) - end_of_two) == end_of_two


@on_sqlite
def test_starts_and_ends_read_no_whole_table(bench: Bench, database: Database) -> None:
    said: list[str] = []
    event.listen(database.engine.pool, "checkout", lambda connection, *_: connection.set_trace_callback(said.append))
    _, step = bench.make()
    following = bench.complete(bench.own(step.id), {})
    assert following is not None
    bench.complete(bench.own(following.id), {})
    plans = []
    with closing(database.engine.raw_connection()) as pooled:
        cursor = pooled.cursor()
        for statement in [each for each in said if "json_each" in each]:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            plans += [row[3] for row in cursor.fetchall()]
    assert len(plans) > 20
    assert [node for node in plans if node.startswith("SCAN") and "VIRTUAL TABLE" not in node] == []


@on_postgresql
def test_plans_that_were_made_in_an_empty_database_do_not_read_all_of_a_full_one(bench: Bench) -> None:
    """They are kept with the connection, and the server may take a minute to look at the tables again."""

    def run(step_id: str) -> None:
        following = bench.complete(bench.own(step_id), {})
        assert following is not None
        bench.complete(bench.own(following.id), {})

    for _ in range(10):
        run(bench.make()[1].id)
    waiting = [bench.make(f"other-{number % 20}")[1].id for number in range(300)]
    for step_id in waiting[:150]:
        run(step_id)
    read_before = rows_read(bench.database)
    for step_id in waiting[150:170]:
        run(step_id)
    assert (rows_read(bench.database) - read_before) / 40 < 25


@on_postgresql
def test_marking_reads_no_more_rows_than_it_marks(bench: Bench) -> None:
    """All of them wait, so an index of waiting steps finds all of them too: it was gone through for each."""
    waiting = [bench.make(f"other-{number % 20}")[1].id for number in range(300)]
    for marked in (waiting[:100], waiting[100:200], waiting[200:]):
        read_before = rows_read(bench.database)
        dispatch.mark_first_dispatch(bench.database, marked)
        assert (rows_read(bench.database) - read_before) / len(marked) < 10
    count = text("SELECT count(*) FROM steps WHERE dispatched_at IS NOT NULL")
    assert bench.database.read(lambda c: c.execute(count).scalar()) == 300


@on_postgresql
def test_a_rebuild_reads_each_waiting_step_once(bench: Bench) -> None:
    """Page by page, and in the order of each tenant queue, though no plan knows yet how many wait."""
    made = {bench.make(f"account-{number % 3}", priority=number % 2)[1].id for number in range(200)}
    read_before = rows_read(bench.database)
    found: list[Dispatch] = []

    def read_page(connection: Connection) -> list[Dispatch]:
        return dispatch.waiting_after(connection, found[-1] if found else None, horizon_seconds=60, limit=10)

    while page := bench.database.read(read_page):
        found += page
    assert len(found) == 200
    assert {step.id for step in found} == made
    places = [(step.account, step.priority, step.sequence) for step in found]
    assert places == sorted(places)
    assert (rows_read(bench.database) - read_before) / 200 < 3


@on_postgresql
def test_steps_whose_messages_were_removed_are_looked_up_by_their_ids(bench: Bench) -> None:
    made = [bench.make(f"account-{number % 20}")[1].id for number in range(300)]
    bench.own(made[0])
    read_before = rows_read(bench.database)
    found = bench.database.read(lambda c: dispatch.waiting_of(c, [*made[:10], "unknown"], horizon_seconds=60))
    assert {step.id for step in found} == set(made[1:10])
    assert rows_read(bench.database) - read_before < 50
