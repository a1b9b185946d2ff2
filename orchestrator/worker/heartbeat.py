"""The worker's liveness: renews its row in SQL, writes the heartbeat, and ends steps whose jobs were cancelled.

Timing: the row is renewed every 5 s. After 8 s without a renewal the steps are ended, and then this worker. After 15 s
by the database's clock the rescuer declares it dead, and its steps run elsewhere. The heartbeat is written only after
the renewal was committed, so a worker that cannot reach the database loses its steps in time.

The renewal has its own thread, because a write may wait behind others. On SQLite a migration blocks all writes; while
it is announced (`tenants.migrations.announced`), reading the announcement counts as a renewal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tenants.database.transactions import Database
from tenants.errors import Unavailable
from tenants.store import protocol
from tenants.store import workers as store

from ..isolation.guard import Guard
from ..isolation.posix import now
from .execution import Execution

log = logging.getLogger(__name__)

#: Seconds between checks for cancelled jobs; also between failed renewals.
TICK_SECONDS = 1.0
#: Seconds without a renewal after which an announced migration is looked up: early enough for two look-ups.
CHECK_ANNOUNCEMENT_SECONDS = store.RENEWAL_SECONDS + TICK_SECONDS / 2


class Liveness:
    """Two threads of the worker; see the module's docstring."""

    def __init__(
        self,
        worker_id: str,
        database: Database,
        execution: Execution,
        guard: Guard,
        *,
        on_unfit: Callable[[str], None],
        on_superseded: Callable[[], None],
    ) -> None:
        self._worker_id = worker_id
        self._database = database
        self._execution = execution
        self._guard = guard
        self._on_unfit = on_unfit
        self._on_superseded = on_superseded
        self._stopping = threading.Event()
        self._renewed_at = now()
        #: Both threads set `_renewed_at`, which must never go back.
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name="liveness", daemon=True),
            threading.Thread(target=self._keep_renewing, name="liveness-renewal", daemon=True),
        ]

    def start(self) -> None:
        self._guard.beat()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _keep_renewing(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.renew_when_due()
            except Unavailable as error:
                log.warning("worker %s cannot renew its liveness: %s", self._worker_id, error)

    def _run(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.tick()
            except Unavailable as error:
                log.warning("worker %s cannot reach the database: %s", self._worker_id, error)
            silent = now() - self._renewed_at
            if silent > store.SELF_KILL_SECONDS:
                self._on_unfit(f"its liveness could not be renewed for {silent:.1f} s")

    def renew_when_due(self) -> None:
        """Renew the row if it is due.

        Raises:
            Unavailable: the database cannot be reached.
        """
        if now() - self._renewed_at < store.RENEWAL_SECONDS - TICK_SECONDS / 2:
            return
        asked_at = now()
        if not self._database.write(lambda connection: store.renew(connection, self._worker_id, self._execution.busy)):
            self._on_unfit("it was declared dead; its steps run elsewhere")
            return
        self._renewed(asked_at)
        self._execution.hand_back_orphaned()
        try:
            protocol.check(self._database)
        except protocol.NewerRelease as error:
            log.error("worker %s stops in order: %s", self._worker_id, error)
            self._on_superseded()

    def tick(self) -> None:
        """Count an announced migration as a renewal, and end the steps whose jobs were cancelled.

        Raises:
            Unavailable: the database cannot be reached.
        """
        asked_at = now()
        if asked_at - self._renewed_at > CHECK_ANNOUNCEMENT_SECONDS and self._database.read(
            lambda connection: store.is_excused(connection, self._worker_id)
        ):
            self._renewed(asked_at)
        if self._execution.busy:
            for step_id in self._database.read(lambda connection: store.cancelled_steps(connection, self._worker_id)):
                self._execution.cancel(step_id)

    def _renewed(self, asked_at: float) -> None:
        # A renewal that waited behind a migration was requested before the last announcement was read.
        with self._lock:
            self._renewed_at = max(self._renewed_at, asked_at)
            self._guard.beat(self._renewed_at)
