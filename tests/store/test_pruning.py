"""What the pruner keeps and what it removes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from tenants.columns import db_now
from tenants.models import Attempt, DeadLetter, Event, Job, Step
from tenants.store import outcomes, pruning
from tenants.store.new_jobs import StepPlan
from tenants.store.pruning import Retention

from .conftest import Bench

ONE_STEP = (StepPlan("only", "quick", True, 1),)
KEEP_TWO = Retention(completed=2, failed=1, grace=0.0, max_age=None)


@pytest.fixture
def ended(bench: Bench) -> Any:
    def end(account: str, *, fail: bool = False) -> str:
        job_id, first = bench.make(account=account, steps=ONE_STEP)
        owned = bench.own(first.id)
        if fail:
            error = {"code": "internal", "message": "x"}
            bench.write(lambda c: outcomes.fail(c, owned, outcome="failed", error=error, traceback=None, message={}))
        else:
            bench.write(lambda c: outcomes.complete(c, owned, {}))
        return job_id

    return end


def left(bench: Bench) -> set[str]:
    return set(bench.database.read(lambda c: c.execute(select(Job.__table__.c.id)).scalars().all()))


def prune(bench: Bench, retention: Retention, limit: int = 100) -> int:
    pruned: pruning.Pruned = bench.write(lambda c: pruning.prune_jobs(c, retention, limit=limit))
    return pruned.jobs


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
    assert bench.write(lambda c: pruning.prune_rest(c, Retention(), limit=1000)) > 0
    assert bench.database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one()) == 0
