"""Sends queued steps to Redis that were not dispatched at once: each second, those that have waited for a second.

Steps that this process has sent itself are marked as dispatched before that second is over, so that a backlog is not
sent twice: sending 200 steps holds the GIL for 20 ms.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

from tenants.store import dispatch as store
from tenants.store.dispatch import Dispatch

from .. import metrics
from ..control.dispatch import HORIZON_SECONDS
from ..runtime import Runtime


class DispatchLoop:
    """See the module's docstring. Most steps have started by then, and are no longer queued."""

    name = "dispatcher"
    interval_seconds = 0.4
    look_seconds = 1.0
    #: Steps that no worker has started by then are marked as dispatched.
    soon_started_seconds = 0.2
    batch = 1000

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._looked_at = 0.0
        runtime.dispatcher.remember_sent()

    def run_once(self) -> bool:
        """Mark what was sent; each second also send one batch. True when there may be more."""
        self._mark_sent()
        self._runtime.dispatcher.ask_again()
        if time.monotonic() < self._looked_at + self.look_seconds:
            return False
        if self._send_one_batch():
            return True
        self._looked_at = time.monotonic()
        return False

    def _mark_sent(self) -> None:
        # Ends at the first batch that is not full: under load a few more steps are old enough after each commit, so
        # that emptying the list would not end, and each few steps would cost a write transaction.
        full = True
        while full:
            sent = self._runtime.dispatcher.take_sent(self.batch, older_than=self.soon_started_seconds)
            store.mark_first_dispatch(self._runtime.database, sent)
            full = len(sent) == self.batch

    def _send_one_batch(self) -> bool:
        def look(connection: Connection) -> list[Dispatch]:
            return store.undispatched(connection, horizon_seconds=HORIZON_SECONDS, limit=self.batch)

        found = self._runtime.database.read(look)
        if not found or not self._runtime.dispatcher.send(found):
            return False
        metrics.REDISPATCHED.inc(len(found))
        ids = [step.id for step in found]
        self._runtime.database.write(lambda connection: store.mark_dispatched(connection, ids))
        return len(found) == self.batch
