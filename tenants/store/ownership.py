"""Taking a step and completing it, each in a transaction of its own and by the quickest way that the database has."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError

from ..database import Database
from ..errors import OwnershipLost
from . import on_sqlite, one_statement, outcomes, steps
from .dispatch import Dispatch
from .steps import Gone, Owned, Refused


def start(database: Database, step_id: str, *, worker_id: str, slot: int) -> Owned | Refused | Gone:
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


def complete(database: Database, owned: Owned, output: dict[str, Any]) -> Dispatch | None:
    """Keep the output, and queue the next step; see `outcomes.complete`.

    Raises:
        OwnershipLost: another attempt owns the step; nothing was written.
        Unavailable, CommitUnknown: as `start`.
    """
    ends_with_a_call = owned.following is None and owned.job["callback_url"] is not None
    if (owned.required or owned.following is not None) and not ends_with_a_call and not owned.canary:
        complete_quickly = one_statement.complete if database.dialect == "postgresql" else on_sqlite.complete
        try:
            return complete_quickly(database, owned, output)
        except OwnershipLost:
            if owned.following is None:
                raise
            # Or it is owned, and its job was cancelled meanwhile: the long way tells, and ends the job.
    return database.write(lambda connection: outcomes.complete(connection, owned, output))
