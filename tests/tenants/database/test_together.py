"""Steps of several threads that start and end in the same statements: each has an answer of its own.

What a single step's start and end do is said in `test_steps` and `test_races`, which go by the same statements.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import Connection, event, text

from tenants.database.transactions import Database
from tenants.store import dispatch
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.dispatch import Dispatch
from tenants.store.jobs.create import StepPlan
from tests.tenants.conftest import Bench
from tests.tenants.store.shared_batch import PATIENCE_SECONDS, run_statement, share

on_postgresql = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)

ONE_STEP = (StepPlan("generate", "generate", True, 3),)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


# --- steps that go together ----------------------------------------------------------------------------------------


def test_steps_of_several_accounts_start_and_end_together(bench: Bench, threads: ThreadPoolExecutor) -> None:
    made = [bench.make(f"account-{number}") for number in range(4)]
    started = share(bench.database, threads, *(lambda step=step: bench.start(step.id) for _, step in made))
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


def test_what_is_out_of_the_ordinary_for_one_is_so_for_none_else(bench: Bench, threads: ThreadPoolExecutor) -> None:
    """Beyond its concurrency, a slot that is taken, a paused account, a step that is gone: the others start."""
    first, beyond, taken, paused, fine = (bench.make(name, steps=ONE_STEP)[1].id for name in "abcde")
    bench.limit("c", {"lanes": {"generate": {"concurrency": 2}}})
    bench.own(bench.make("c", steps=ONE_STEP)[1].id, slot=0)
    bench.write(lambda c: c.execute(text("UPDATE accounts SET status = 'paused' WHERE id = 'd'")))
    answers = share(
        bench.database,
        threads,
        lambda: bench.start(first),
        lambda: bench.start(beyond, slot=1),
        lambda: bench.start(taken, slot=0),
        lambda: bench.start(paused),
        lambda: bench.start("01900000-0000-7000-8000-000000000000"),
        lambda: bench.start(fine),
    )
    assert [type(answer) for answer in answers] == [OwnedAttempt, Refused, Refused, Refused, NotRunnable, OwnedAttempt]


def test_a_step_that_two_threads_start_at_once_starts_once(bench: Bench, threads: ThreadPoolExecutor) -> None:
    """Its message came twice, say. The other steps of that moment start all the same."""
    bench.limit("a", {"lanes": {"generate": {"concurrency": 2}}})
    first, twice, fine = (bench.make(name, steps=ONE_STEP)[1].id for name in ("x", "a", "b"))
    answers = share(
        bench.database,
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
    bench: Bench, threads: ThreadPoolExecutor
) -> None:
    (held_job, held), (_, first), (free_job, free) = (bench.make(name, steps=ONE_STEP) for name in "abc")
    with bench.database.engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": held_job})
        calls = threads.submit(
            share,
            bench.database,
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
def test_what_is_large_or_of_any_letters_comes_back_as_it_was(bench: Bench, threads: ThreadPoolExecutor) -> None:
    outputs = [{"text": text} for text in ("x" * 300_000, 'a "quote", a \\ and a\0', "Ünïcödé 🐘 \ud800", "[1]")]
    made = [bench.make(f"account-{number}") for number in range(4)]
    started = [bench.own(step.id) for _, step in made]
    share(
        bench.database,
        threads,
        *(lambda own=own, out=out: bench.complete(own, out) for own, out in zip(started, outputs, strict=True)),
    )
    for (job_id, _), output in zip(made, outputs, strict=True):
        _, second = bench.steps(job_id)
        assert bench.own(second["id"]).outputs == {"generate": output}


# --- what they cost ------------------------------------------------------------------------------------------------


def rows_read(database: Database) -> int:
    """Rows of tables that statements have looked at, since the server counts."""
    run_statement(database, "SELECT to_json(pg_stat_force_next_flush()::text)")
    read = "coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)"
    return int(run_statement(database, f"SELECT to_json({read}) FROM pg_stat_user_tables"))


@on_sqlite
def test_starts_and_ends_read_no_whole_table(bench: Bench, database: Database) -> None:
    said: list[str] = []
    event.listen(database.engine.pool, "checkout", lambda connection, *_: connection.set_trace_callback(said.append))
    _, step = bench.make()
    said.clear()
    following = bench.complete(bench.own(step.id), {})
    assert following is not None
    bench.complete(bench.own(following.id), {})
    plans = []
    with closing(database.engine.raw_connection()) as pooled:
        cursor = pooled.cursor()
        for statement in [each for each in said if each.startswith(("SELECT", "UPDATE", "DELETE"))]:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            plans += [row[3] for row in cursor.fetchall()]
    assert len(plans) > 20
    scans = [node for node in plans if node.startswith("SCAN") and node != "SCAN CONSTANT ROW"]
    assert [node for node in scans if "VIRTUAL TABLE" not in node] == []


@on_postgresql
def test_plans_made_in_an_empty_database_do_not_read_all_of_a_full_one(bench: Bench) -> None:
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
