"""Deletes a tenant queue, and counts what that cancelled: an answer says what was done, however it ended.

Invariants
- SQL decides: a job is cancelled, and counted, in the transaction that finds its step waiting.
- A message whose step SQL still wants is not lost to the deletion: it is sent again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dramatiq.errors import BrokerConnectionError

from tenants.database import CommitUnknown, Database
from tenants.errors import AccountBusy, QueueNotEmpty, Unavailable
from tenants.queues import QueueError
from tenants.store import dispatch, queues

from .dispatch import HORIZON_SECONDS
from .runtime import Runtime

log = logging.getLogger(__name__)

#: Jobs that one transaction cancels.
CANCELLED_AT_ONCE = 500
#: How often what came meanwhile is cancelled as well, before the queue is left to those who fill it.
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was done: jobs cancelled, and whether the queue is gone. `waiting`: steps that waited before."""

    cancelled: int
    deleted: bool
    waiting: int


def delete_queue(runtime: Runtime, lane: str, account: str, *, force: bool) -> Deletion:
    """Cancel what waits, if `force` says so, and tear the queue down.

    Raises:
        AccountBusy: a step runs; nothing was done.
        QueueNotEmpty: steps wait, and there is no `force`; nothing was done.
        Unavailable, BrokerConnectionError: a server is away; nothing was done, or the message says what was.
    """
    database, name = runtime.database, f"{lane}_{account}"
    found = database.read(lambda connection: queues.standing(connection, lane, account))
    if found.running:
        raise AccountBusy(f"{found.running} step(s) run on tenant queue {name}; cancel their jobs, or wait")
    if found.waiting and not force:
        raise QueueNotEmpty(f"{found.waiting} step(s) wait on tenant queue {name}; force=true cancels their jobs")
    cancelled = 0
    for _ in range(_ROUNDS if force else 1):
        try:
            if force:
                cancelled += _cancel_waiting(database, lane, account, cancelled)
            if _tear_down(runtime, lane, account):
                return Deletion(cancelled, True, found.waiting)
        except CommitUnknown:
            raise
        except (Unavailable, BrokerConnectionError, QueueError) as error:
            if not cancelled:
                raise
            log.warning("tenant queue %s was not deleted, %d job(s) were cancelled: %s", name, cancelled, error)
            break
    if not cancelled:
        raise AccountBusy(f"something came to tenant queue {name} meanwhile; nothing was done")
    return Deletion(cancelled, False, found.waiting)


def _cancel_waiting(database: Database, lane: str, account: str, before: int) -> int:
    cancelled = 0
    try:
        while ended := database.write(
            lambda connection: queues.cancel_waiting(connection, lane, account, limit=CANCELLED_AT_ONCE)
        ):
            cancelled += len(ended)
    except CommitUnknown as error:
        told = f"{before + cancelled} job(s) were cancelled, and perhaps up to {CANCELLED_AT_ONCE} more"
        raise CommitUnknown(f"{error}; {told}") from error
    except Unavailable:
        if not cancelled:
            raise
    return cancelled


def _tear_down(runtime: Runtime, lane: str, account: str) -> bool:
    """False when something came meanwhile, or runs."""
    admin = runtime.broker.queues_admin
    removed = admin.purge(lane, account)
    came = runtime.database.read(
        lambda connection: dispatch.waiting_of(connection, removed, horizon_seconds=HORIZON_SECONDS)
    )
    if came:
        runtime.dispatcher.send(came)
        return False
    return admin.delete(lane, account)
