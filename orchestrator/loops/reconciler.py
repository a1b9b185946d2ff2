"""Makes Redis hold what SQL says, after it lost something.

A loss is noticed by a generation number that both sides carry and by the server's run id: Redis emptied, restarted,
restored from an old snapshot or replaced by another server all show as a mismatch. Then every waiting step is enqueued
once by its id, which does nothing for those that Redis still has. Order and priority come from SQL.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Connection

from tenants.queues import ServerInfo
from tenants.store import dispatch as store
from tenants.store import meta
from tenants.store.jobs import Dispatch

from .. import metrics
from ..dispatch import HORIZON_SECONDS
from ..runtime import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What a reconciliation did."""

    #: Waiting steps that Redis did not have.
    requeued: int
    #: Waiting steps that were looked at.
    checked: int


class Reconciler:
    """See the module's docstring."""

    name = "reconciler"
    interval_seconds = 2.0
    batch = 1000

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        server = self._runtime.broker.check_server()
        metrics.REDIS_UP.set(1)
        if not self._is_whole(server):
            log.warning("Redis (run id %s) is not the one that SQL knows: rebuilding it from SQL", server.run_id)
            self._runtime.queue_settings.carry_all()
            report = self.reconcile()
            self._seal(server)
            metrics.REBUILDS.inc()
            log.warning("Redis was rebuilt: %d of %d waiting step(s) were missing", report.requeued, report.checked)
        return False

    def reconcile(self) -> Report:
        """Go through all waiting steps once and enqueue those that Redis lacks."""
        requeued = checked = 0
        last = ""
        while True:

            def look(connection: Connection, last: str = last) -> list[Dispatch]:
                return store.waiting_after(connection, last, horizon_seconds=HORIZON_SECONDS, limit=self.batch)

            found = self._runtime.database.read(look)
            if not found:
                return Report(requeued, checked)
            requeued += self._runtime.dispatcher.send_missing(found)
            checked += len(found)
            last = found[-1].id

    def _is_whole(self, server: ServerInfo) -> bool:
        known = self._runtime.database.read(lambda connection: meta.get_many(connection, _GENERATION, _RUN_ID))
        generation = self._runtime.broker.queues_admin.generation()
        return (
            known.get(_RUN_ID) == server.run_id
            and known.get(_GENERATION) is not None
            and int(known[_GENERATION]) == generation
        )

    def _seal(self, server: ServerInfo) -> None:
        """Note a new generation on both sides, SQL first: a crash between them only means another rebuild."""

        def work(connection: Connection) -> int:
            generation = int(meta.get_many(connection, _GENERATION).get(_GENERATION, "0")) + 1
            meta.put(connection, _GENERATION, str(generation))
            meta.put(connection, _RUN_ID, server.run_id)
            return generation

        self._runtime.broker.queues_admin.set_generation(self._runtime.database.write(work))


_GENERATION, _RUN_ID = "redis_generation", "redis_run_id"
