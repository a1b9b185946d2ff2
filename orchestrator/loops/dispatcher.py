"""Sends queued steps to Redis that were not dispatched at once: each second, those that have waited for one."""

from __future__ import annotations

from sqlalchemy import Connection

from tenants.store import dispatch as store
from tenants.store.dispatch import Dispatch

from .. import metrics
from ..dispatch import HORIZON_SECONDS
from ..runtime import Runtime


class DispatchLoop:
    """A step that started meanwhile is no longer queued, so most are never seen here."""

    name = "dispatcher"
    interval_seconds = 1.0
    batch = 1000

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        """Send one batch; True when there may be more."""

        def look(connection: Connection) -> list[Dispatch]:
            return store.undispatched(connection, horizon_seconds=HORIZON_SECONDS, limit=self.batch)

        found = self._runtime.database.read(look)
        if not found or not self._runtime.dispatcher.send(found):
            return False
        metrics.REDISPATCHED.inc(len(found))
        ids = [step.id for step in found]
        self._runtime.database.write(lambda connection: store.mark_dispatched(connection, ids))
        return len(found) == self.batch
