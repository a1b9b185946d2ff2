"""What the pruner keeps and what it removes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update
from sqlalchemy.event import listens_for

from tenants.database.columns import db_now
from tenants.database.models import Attempt, DeadLetter, Event, IdempotencyKey, Job, Step, Worker
from tenants.store import idempotency, workers
from tenants.store.events import NewEvent, record
from tenants.store.jobs import finish as endings
from tenants.store.jobs import read as jobs
from tenants.store.jobs.create import StepPlan
from tenants.store.removal import pruning
from tenants.store.removal.pruning import Retention
from tenants.store.steps import finish as finish_steps
from tests.tenants.conftest import Bench

ONE_STEP = (StepPlan("only", "quick", True, 1),)
KEEP_TWO = Retention(completed=2, failed=1, grace=0.0, max_age=None)


@pytest.fixture
def ended(bench: Bench) -> Any:
    def end(account: str, *, fail: bool = False) -> str:
        job_id, first = bench.make(account=account, steps=ONE_STEP)
        owned = bench.own(first.id)
        if fail:
            error = {"code": "internal", "message": "x"}
            bench.write(
                lambda c: finish_steps.fail(c, owned, outcome="failed", error=error, traceback=None, message={})
            )
        else:
            bench.write(lambda c: finish_steps.complete(c, owned, {}))
        return job_id

    return end


def left(bench: Bench) -> set[str]:
    return set(bench.database.read(lambda c: c.execute(select(Job.__table__.c.id)).scalars().all()))


def prune(bench: Bench, retention: Retention, limit: int = 100) -> int:
    found = pruning.candidates(bench.database, retention, limit=limit)
    return pruning.remove(bench.database, found).jobs if found else 0


def test_the_newest_of_each_account_stay(bench: Bench, ended: Any) -> None:
    acme = [ended("acme") for _ in range(4)]
    other = [ended("other") for _ in range(2)]
    running, first = bench.make(account="acme", steps=ONE_STEP)
    bench.own(first.id)
    assert prune(bench, KEEP_TWO) == 2
    assert left(bench) == {*acme[2:], *other, running}
    for table in (Step, Attempt, Event):
        ids = table.__table__.c.job_id
        with bench.database.engine.connect() as connection:
            assert set(connection.execute(select(ids).distinct()).scalars()) <= left(bench)


def test_batches_are_bounded(bench: Bench, ended: Any) -> None:
    for _ in range(6):
        ended("acme")
    assert [prune(bench, KEEP_TWO, limit=3) for _ in range(3)] == [3, 1, 0]


def test_young_jobs_stay_whatever_their_number(bench: Bench, ended: Any) -> None:
    for _ in range(4):
        ended("acme")
    assert prune(bench, Retention(completed=1, failed=1, grace=3600.0, max_age=None)) == 0


def test_old_jobs_go_whatever_their_number(bench: Bench, ended: Any) -> None:
    old, young = ended("acme"), ended("acme")
    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == old).values(finished_at=db_now(-7200))))
    assert prune(bench, Retention(grace=0.0, max_age=3600.0)) == 1
    assert left(bench) == {young}


def test_an_open_dead_letter_keeps_its_job(bench: Bench, ended: Any) -> None:
    failed = [ended("acme", fail=True) for _ in range(3)]
    assert prune(bench, KEEP_TWO) == 0
    table = DeadLetter.__table__
    bench.write(lambda c: c.execute(update(table).values(resolution="discarded", resolved_at=db_now())))
    assert prune(bench, KEEP_TWO) == 2
    assert left(bench) == {failed[-1]}


def test_old_events_go(bench: Bench, ended: Any) -> None:
    ended("acme")
    table = Event.__table__
    bench.write(lambda c: c.execute(update(table).values(created_at=db_now(-8 * 24 * 3600))))
    assert pruning.prune_rest(bench.database, Retention(), limit=1000) > 0
    assert bench.database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one()) == 0


def test_old_keys_and_stopped_workers_go_a_few_at_a_time(bench: Bench) -> None:
    def work(connection: Connection) -> None:
        for number in range(5):
            idempotency.claim(connection, f"key {number}", "hash")
            workers.register(connection, id=f"old {number}", host="h", pid=1, lanes=[], threads=1)
        age = db_now(-2 * 86400)
        connection.execute(update(IdempotencyKey.__table__).values(created_at=age))
        connection.execute(update(Worker.__table__).where(Worker.__table__.c.id != "w1").values(stopped_at=age))
        idempotency.claim(connection, "young", "hash")

    bench.write(work)
    assert [pruning.prune_rest(bench.database, Retention(), limit=3) for _ in range(3)] == [6, 4, 0]
    left = {
        table: bench.database.read(lambda c, t=table: c.execute(select(t.__table__)).mappings().all())  # type: ignore[misc]
        for table in (IdempotencyKey, Worker)
    }
    assert [row["scope"] for row in left[IdempotencyKey]] == ["young"]
    assert [row["id"] for row in left[Worker]] == ["w1"]


def test_a_job_that_was_let_go_on_since_the_look_stays(bench: Bench, ended: Any) -> None:
    """The answer to its `:retry` said that it will run."""
    failed = ended("acme", fail=True)
    bench.write(lambda c: c.execute(update(DeadLetter.__table__).values(resolution="discarded")))
    none_kept = Retention(completed=0, failed=0, grace=0.0)
    found = pruning.candidates(bench.database, none_kept, limit=10)
    assert found == [failed]
    bench.write(lambda c: endings.reopen(c, bench.job(failed), bench.steps(failed)[0]))
    assert pruning.remove(bench.database, found).jobs == 0
    assert left(bench) == {failed}
    assert bench.steps(failed)[0]["status"] == "queued"


def test_accounts_with_nothing_to_remove_hide_no_others(
    bench: Bench, ended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts come in pages; those that are crowded with what is needed or young must not fill them all."""
    monkeypatch.setattr(pruning, "ACCOUNTS_AT_ONCE", 2)
    for name in "abcd":
        for _ in range(3):
            ended(name, fail=True)  # each leaves an open dead letter
    goes = [ended("e") for _ in range(4)]
    assert prune(bench, KEEP_TWO, limit=3) == 2
    assert left(bench) & set(goes) == set(goes[2:])


def test_a_job_with_very_many_events_goes_in_small_transactions(
    bench: Bench, ended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 10)
    noisy = ended("acme")
    bench.write(lambda c: record(c, *(NewEvent("acme", noisy, "log", {"n": n}) for n in range(45))))
    deleted: list[int] = []

    @listens_for(bench.database.engine, "after_cursor_execute")
    def _(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("DELETE FROM events"):
            deleted.append(cursor.rowcount)

    assert prune(bench, Retention(completed=0, grace=0.0)) == 1
    assert len(deleted) > 4
    assert max(deleted) <= 10


def test_the_look_holds_up_no_writer(bench: Bench, ended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes over many rows; on SQLite a look that also writes would stop every POST and step meanwhile."""
    ended("acme")
    look = pruning.surplus
    made: list[str] = []

    def slow_look(connection: Connection, **wanted: Any) -> Any:
        found = look(connection, **wanted)
        with ThreadPoolExecutor(1) as pool:
            made.append(pool.submit(bench.make, "other").result(timeout=10)[0])
        return found

    monkeypatch.setattr(pruning, "surplus", slow_look)
    assert prune(bench, Retention(completed=0, grace=0.0)) == 1
    assert set(made) == left(bench)


def test_a_job_that_somebody_holds_is_left_for_later(bench: Bench, ended: Any) -> None:
    if bench.database.dialect == "sqlite":
        return  # one writer at a time: nobody can hold anything meanwhile
    held, free = ended("acme"), ended("acme")
    none_kept = Retention(completed=0, grace=0.0)
    found = pruning.candidates(bench.database, none_kept, limit=10)

    def hold(connection: Connection) -> int:
        jobs.lock(connection, held, None)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(pruning.remove, bench.database, found).result(timeout=60).jobs

    assert bench.write(hold) == 1
    assert left(bench) == {held}
    assert free not in left(bench)
