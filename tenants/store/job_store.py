"""Creating jobs, starting and completing steps: each one transaction, by the implementation that the database has.

`PortableStore` runs statements that both databases have; SQLite has no other. `PostgresStore` runs one statement for
the calls of several threads. Its statements answer with a verdict; where that needs more writes or a lock to wait for,
the portable implementation runs the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..database.transactions import Database
from . import postgres_fast_path
from .attempt import NotRunnable, OwnedAttempt, Refused
from .dispatch import Dispatch
from .jobs import create as create_jobs
from .jobs.create import Created, JobPlan
from .steps import finish as finish_steps
from .steps import start as start_steps

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Started = OwnedAttempt | Refused | NotRunnable


class JobStore(Protocol):
    """Each call is one transaction. All raise `Unavailable`, and `CommitUnknown` if the commit's answer was lost."""

    def create(self, account: str, plans: Sequence[JobPlan], *, again: bool = False) -> Created:
        """Create jobs with their steps, all or none; see `create_jobs.create`."""
        ...

    def start(self, step_id: str, *, worker_id: str, slot: int) -> Started:
        """Make this worker the step's owner, or say why not; see `start_steps.start`."""
        ...

    def complete(self, owned: OwnedAttempt, output: dict[str, Any]) -> Dispatch | None:
        """Keep the output, and queue the next step; see `finish_steps.complete`."""
        ...


def job_store(database: Database) -> JobStore:
    """The implementation for this database."""
    return PortableStore(database) if database.dialect == "sqlite" else PostgresStore(database)


class PortableStore:
    """SQLAlchemy statements. On SQLite, calls of several threads share a commit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, account: str, plans: Sequence[JobPlan], *, again: bool = False) -> Created:
        return self._run(_create_each, _Create(account, plans, again))

    def start(self, step_id: str, *, worker_id: str, slot: int) -> Started:
        try:
            return self._run(_start_each, _Start(step_id, worker_id, slot))
        except IntegrityError:
            return start_steps.answer_to("slot_taken", {}, slot)

    def complete(self, owned: OwnedAttempt, output: dict[str, Any]) -> Dispatch | None:
        return self._run(_complete_each, _Complete(owned, output))

    def _run(self, run_all: Callable[[Connection, Sequence[Item]], list[Answer]], item: Item) -> Answer:
        if self._database.dialect == "sqlite":
            return self._database.batch(run_all, item)
        return self._database.write(lambda connection: run_all(connection, [item])[0])


class PostgresStore:
    """One statement for the calls of several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._portable = PortableStore(database)

    def create(self, account: str, plans: Sequence[JobPlan], *, again: bool = False) -> Created:
        if len(plans) == 1 and postgres_fast_path.may_create(plans[0]):
            created = postgres_fast_path.create(self._database, account, plans[0])
            if created is not None:
                return created
        return self._portable.create(account, plans, again=again)

    def start(self, step_id: str, *, worker_id: str, slot: int) -> Started:
        try:
            started = postgres_fast_path.start(self._database, step_id, worker_id=worker_id, slot=slot)
        except IntegrityError:
            return start_steps.answer_to("slot_taken", {}, slot)
        return started or self._portable.start(step_id, worker_id=worker_id, slot=slot)

    def complete(self, owned: OwnedAttempt, output: dict[str, Any]) -> Dispatch | None:
        if postgres_fast_path.may_complete(owned) and postgres_fast_path.complete(self._database, owned, output):
            return None if owned.following_awaits_approval else owned.following
        return self._portable.complete(owned, output)


class _Create(NamedTuple):
    account: str
    plans: Sequence[JobPlan]
    again: bool


class _Start(NamedTuple):
    step_id: str
    worker_id: str
    slot: int


class _Complete(NamedTuple):
    owned: OwnedAttempt
    output: dict[str, Any]


def _create_each(connection: Connection, calls: Sequence[_Create]) -> list[Created]:
    return [create_jobs.create(connection, call.account, call.plans, again=call.again) for call in calls]


def _start_each(connection: Connection, calls: Sequence[_Start]) -> list[Started]:
    return [start_steps.start(connection, call.step_id, worker_id=call.worker_id, slot=call.slot) for call in calls]


def _complete_each(connection: Connection, calls: Sequence[_Complete]) -> list[Dispatch | None]:
    return [finish_steps.complete(connection, call.owned, call.output) for call in calls]
