"""Applies due times to jobs: scheduled jobs become queued, unstarted ones expire, and deadlines end jobs.

The messages of scheduled jobs are in Redis before their time, as delayed ones; only their status is changed here.
"""

from __future__ import annotations

from sqlalchemy import Connection

from tenants.store.dispatch import Dispatch
from tenants.store.jobs import timers as store

from ..runtime import Runtime


class Scheduler:
    """See the module's docstring."""

    name = "scheduler"
    interval_seconds = 1.0
    batch = 500

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        database, dispatcher = self._runtime.database, self._runtime.dispatcher
        if not database.read(store.anything_due):
            return False

        def work(connection: Connection) -> tuple[int, list[Dispatch]]:
            moved = store.queue_due_jobs(connection, limit=self.batch)
            withdrawn = store.expire_jobs(connection, limit=self.batch)
            withdrawn += store.end_at_deadline(connection, limit=self.batch)
            return moved, withdrawn

        moved, withdrawn = database.write(work)
        dispatcher.withdraw(withdrawn)
        return moved == self.batch or len(withdrawn) >= self.batch
