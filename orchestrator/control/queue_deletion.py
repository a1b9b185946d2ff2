"""Deletes a tenant queue, and counts the jobs that this cancelled, also when a server fails in between.

Invariants
- SQL decides: a job is cancelled, and counted, in the transaction that finds its step waiting.
- If a removed message belongs to a step that is still queued in SQL, it is sent again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dramatiq.errors import BrokerConnectionError

from tenants.database.transactions import CommitUnknown, Database
from tenants.errors import AccountBusy, QueueNotEmpty, Unavailable
from tenants.queues import QueueError, TenantBroker
from tenants.store import dispatch
from tenants.store.accounts import queues
from tenants.store.jobs import bulk_cancel

from .dispatch import HORIZON_SECONDS, Dispatcher

log = logging.getLogger(__name__)

#: Most jobs that one transaction cancels.
CANCELLED_AT_ONCE = 500
#: How often jobs that came meanwhile are cancelled too, before the deletion gives up.
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Deletion:
    """The jobs cancelled, whether the queue was deleted, and the steps that waited before."""

    cancelled: int
    deleted: bool
    waiting: int


class QueueDeletion:
    """Deletes tenant queues."""

    def __init__(self, database: Database, broker: TenantBroker, dispatcher: Dispatcher) -> None:
        self._database = database
        self._admin = broker.queues_admin
        self._dispatcher = dispatcher

    def delete(self, lane: str, account: str, *, force: bool) -> Deletion:
        """Cancel the waiting jobs if `force` is given, and delete the queue.

        Raises:
            AccountBusy: a step is running; nothing was done.
            QueueNotEmpty: steps are waiting, and `force` is not given; nothing was done.
            Unavailable, BrokerConnectionError: a server is down; nothing was done, or the message says what was.
        """
        name = f"{lane}_{account}"
        found = self._database.read(lambda connection: queues.count_steps(connection, lane, account))
        if found.running:
            raise AccountBusy(f"{found.running} step(s) run on tenant queue {name}; cancel their jobs, or wait")
        if found.waiting and not force:
            raise QueueNotEmpty(f"{found.waiting} step(s) wait on tenant queue {name}; force=true cancels their jobs")
        cancelled = 0
        for _ in range(_ROUNDS if force else 1):
            try:
                if force:
                    cancelled += self._cancel_waiting(lane, account, cancelled)
                if self._delete(lane, account):
                    return Deletion(cancelled, True, found.waiting)
            except CommitUnknown:
                raise
            except (Unavailable, BrokerConnectionError, QueueError) as error:
                if not cancelled:
                    raise
                log.warning("tenant queue %s was not deleted, %d job(s) were cancelled: %s", name, cancelled, error)
                break
        if not cancelled:
            raise AccountBusy(f"a message came to tenant queue {name} meanwhile; nothing was done")
        return Deletion(cancelled, False, found.waiting)

    def _cancel_waiting(self, lane: str, account: str, before: int) -> int:
        cancelled = 0
        try:
            while ended := self._database.write(
                lambda connection: bulk_cancel.cancel_waiting(connection, lane, account, limit=CANCELLED_AT_ONCE)
            ):
                cancelled += len(ended)
        except CommitUnknown as error:
            done = f"{before + cancelled} job(s) were cancelled, and perhaps up to {CANCELLED_AT_ONCE} more"
            raise CommitUnknown(f"{error}; {done}") from error
        except Unavailable:
            if not cancelled:
                raise
        return cancelled

    def _delete(self, lane: str, account: str) -> bool:
        """Delete the queue; False if a message came meanwhile, or a step is running."""
        removed = self._admin.purge(lane, account)
        came = self._database.read(
            lambda connection: dispatch.waiting_of(connection, removed, horizon_seconds=HORIZON_SECONDS)
        )
        if came:
            self._dispatcher.send(came)
            return False
        return self._admin.delete(lane, account)
