"""Taking a step and completing it, each in a transaction of its own and by the quickest way that the database has."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError

from ..database import Database
from . import on_sqlite, one_statement, outcomes, steps
from .attempt import NotRunnable, OwnedAttempt, Refused
from .dispatch import Dispatch


def start(database: Database, step_id: str, *, worker_id: str, slot: int) -> OwnedAttempt | Refused | NotRunnable:
    """Try to make this worker the step's owner; see `steps.start`.

    Raises:
        Unavailable: the database is away.
        CommitUnknown: it may have started; if it did, it counts as running here although nothing runs it.
    """
    try:
        start_quickly = one_statement.start if database.dialect == "postgresql" else on_sqlite.start
        owned = start_quickly(database, step_id, worker_id=worker_id, slot=slot)
        if owned is not None:
            return owned
        return database.write(lambda connection: steps.start(connection, step_id, worker_id=worker_id, slot=slot))
    except IntegrityError:
        return steps.slot_taken(step_id, slot)


def complete(database: Database, owned: OwnedAttempt, output: dict[str, Any]) -> Dispatch | None:
    """Keep the output, and queue the next step; see `outcomes.complete`.

    Raises:
        OwnershipLost: another attempt owns the step; nothing was written.
        Unavailable, CommitUnknown: as `start`.
    """
    if _is_ordinary(owned):
        complete_quickly = one_statement.complete if database.dialect == "postgresql" else on_sqlite.complete
        if complete_quickly(database, owned, output):
            return None if owned.following_awaits_approval else owned.following
    return database.write(lambda connection: outcomes.complete(connection, owned, output))


def _is_ordinary(owned: OwnedAttempt) -> bool:
    """Whether nothing but the step, its job and the step after it has to be written when it completes."""
    if owned.canary:
        return False
    return owned.following is not None or (owned.required and owned.job["callback_url"] is None)
