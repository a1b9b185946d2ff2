"""Fixtures of the store's tests: a migrated database of each kind, and functions that make jobs and run their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, update

from tenants.database.columns import db_now
from tenants.database.models import Account, Worker
from tenants.database.transactions import Database
from tenants.store import workers
from tenants.store.accounts.accounts import ensure_account
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.dispatch import Dispatch
from tenants.store.job_store import job_store
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs import read as jobs
from tenants.store.jobs.create import JobPlan, StepPlan
from tenants.store.steps import finish as finish_steps

TWO_STEPS = (StepPlan("generate", "generate", True, 3), StepPlan("publish", "publish", True, 3))


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    opened = Database(migrated_url)
    yield opened
    opened.close()


class Bench:
    """Makes jobs and moves their steps, each call in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.write(lambda c: workers.register(c, id="w1", host="here", pid=1, lanes=["generate", "publish"], threads=8))

    def write(self, work: Callable[[Connection], Any]) -> Any:
        return self.database.write(work)

    def make(self, account: str = "acme", steps: tuple[StepPlan, ...] = TWO_STEPS, **plan: Any) -> tuple[str, Dispatch]:
        """A job with its first step queued: the job's id and that step."""
        made = self.write(
            lambda c: create_jobs.create(
                c, account, [JobPlan(pipeline="blog", input={"topic": "x"}, steps=steps, **plan)]
            )
        )
        return made.ids[0], made.queued[0]

    def start(self, step_id: str, slot: int = 0, worker: str = "w1") -> OwnedAttempt | Refused | NotRunnable:
        return job_store(self.database).start(step_id, worker_id=worker, slot=slot)

    def complete(self, owned: OwnedAttempt, output: dict[str, Any]) -> Dispatch | None:
        return job_store(self.database).complete(owned, output)

    def own(self, step_id: str, slot: int = 0, worker: str = "w1") -> OwnedAttempt:
        started = self.start(step_id, slot, worker)
        assert isinstance(started, OwnedAttempt), started
        return started

    def job(self, job_id: str) -> Any:
        return self.database.read(lambda c: jobs.fetch(c, job_id, None))

    def steps(self, job_id: str) -> Any:
        return self.database.read(lambda c: jobs.fetch_steps(c, job_id))

    def attempts(self, job_id: str) -> Any:
        return self.database.read(lambda c: jobs.fetch_attempts(c, job_id))

    def lose(self, connection: Connection, job_id: str, position: int) -> None:
        """Take the step from its worker as a rescuer would, by what the row says now."""
        step = jobs.fetch_steps(connection, job_id)[position]
        finish_steps.lose(connection, step["id"], step["run_token"])

    def limit(self, account: str, limits: dict[str, Any]) -> None:
        def work(connection: Connection) -> None:
            ensure_account(connection, account)
            connection.execute(update(Account.__table__).where(Account.__table__.c.id == account).values(limits=limits))

        self.write(work)

    def silence(self, worker: str, seconds: float) -> None:
        """Let the worker's last renewal lie so far back."""
        table = Worker.__table__
        self.write(lambda c: c.execute(update(table).where(table.c.id == worker).values(heartbeat_at=db_now(-seconds))))


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)
