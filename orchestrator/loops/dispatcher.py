"""Sends queued steps to Redis that were not dispatched at once: each second, those that have waited for one.

What this process has sent itself is marked before that second is over. With the marks left to the second sending, each
step of a backlog was sent twice, and 200 of them held the interpreter for 20 ms each second.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

from tenants.store import dispatch as store
from tenants.store.dispatch import Dispatch

from .. import metrics
from ..dispatch import HORIZON_SECONDS
from ..runtime import Runtime


class DispatchLoop:
    """A step that started meanwhile is no longer queued, so most are never seen here."""

    name = "dispatcher"
    interval_seconds = 0.4
    look_seconds = 1.0
    #: A step that no worker has started by then waits behind others, and is marked.
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
        # Only after a full batch is there more for now. To take until nothing is left would never end under load: a
        # few more are old enough after each commit, and each few would be one more turn of the writer.
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
