"""Makes Redis match SQL: completely after a loss of Redis and on request, and continuously a part of it.

A loss is detected by a generation number on both sides and by the server's run id: Redis emptied, restarted, restored
from an old snapshot or replaced by another server all show as a mismatch. Then a rebuild synchronizes all settings,
releases what dead workers hold, removes messages that SQL does not know, and enqueues every waiting step by its id,
which does nothing if Redis has it. Order and priority come from SQL.

A server can also lose single keys, by eviction or a partial restore, which the generation number does not show. So
every run repairs the tenant queues that a script has found damaged, and compares some of the waiting steps with Redis:
first those of the repaired queues, then a page of all steps, cyclically. Every run also moves undeliverable messages to
the dead letters (`undeliverable`).

Keys of another layout, which another release uses or has left, are not read, because SQL has their content. They are
removed after they were not used for a time.

Invariants
- A message is removed only after SQL, read later than Redis, showed that its step neither waits nor runs.
- The generation is stored on both sides after the rebuild, so a crash during the rebuild causes another one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from sqlalchemy import Connection

from tenants.queues import HeldEntries, ServerInfo, lease_holder
from tenants.queues.keys import LAYOUT
from tenants.store import dispatch as store
from tenants.store import meta, workers
from tenants.store.dispatch import Dispatch

from .. import metrics
from ..control.dispatch import HORIZON_SECONDS
from ..runtime import Runtime
from .rescuer import Rescuer
from .undeliverable import move_undeliverable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a reconciliation."""

    #: Waiting steps that Redis did not have.
    requeued: int
    #: Steps of dead workers that were released: their rows in SQL, or their leases in Redis.
    released: int
    #: Messages that were removed, because their step does not exist or neither waits nor runs.
    orphaned: int
    #: Waiting steps that were compared.
    checked: int


class Reconciler:
    """See the module's docstring."""

    name = "reconciler"
    interval_seconds = 2.0
    batch = 1000
    #: Steps that were queued longer ago have been dispatched.
    sent_seconds = 3.0
    #: Interval of the search for keys of other layouts, and the time without use after which they are removed.
    layouts_seconds, unused_seconds = 60.0, 600.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: The last step that was compared with Redis; None: begin with the first.
        self._compared: Dispatch | None = None
        self._looked_for_layouts_at = float("-inf")

    def run_once(self) -> bool:
        server = self._runtime.broker.check_server()
        metrics.REDIS_UP.set(1)
        if not self._is_known(server):
            known = self._runtime.database.read(lambda connection: meta.get_many(connection, _RUN_ID)).get(_RUN_ID)
            if known is None:
                log.info("Redis (run id %s) is new to this database", server.run_id)
            else:
                log.info("Redis (run id %s) does not match SQL: rebuilding it from SQL", server.run_id)
            # A server that is emptied from now on loses this number, and so is not mistaken for the rebuilt one.
            self._runtime.broker.queues_admin.set_generation(_IN_REBUILD)
            report = self.reconcile()
            self._store_generation(server)
            metrics.REBUILDS.inc()
            # A first start, and a restart without loss, are no reason for a warning.
            changed = known is not None and (report.requeued or report.released or report.orphaned)
            log.log(
                logging.WARNING if changed else logging.INFO,
                "Redis was rebuilt: %d of %d waiting step(s) were missing, %d were held by dead workers, "
                "%d message(s) had no step to run",
                report.requeued,
                report.checked,
                report.released,
                report.orphaned,
            )
        else:
            self.compare_some()
        self._remove_unused_layouts()
        return move_undeliverable(self._runtime)

    def _remove_unused_layouts(self) -> None:
        if time.monotonic() < self._looked_for_layouts_at + self.layouts_seconds:
            return
        self._looked_for_layouts_at = time.monotonic()
        layouts = self._runtime.broker.layouts
        layouts.note()
        for each in layouts.others():
            if layouts.is_unused(each, self.unused_seconds):
                layouts.remove(each)
                log.info("Redis had unused keys of layout %d: removed", each)
            else:
                log.info("Redis has keys of layout %d: another release uses them, or has just stopped", each)

    def reconcile(self) -> Report:
        """Compare everything once; safe at any time, also concurrently.

        Raises:
            dramatiq's ConnectionClosed: Redis is unreachable.
            Unavailable: the database is.
        """
        self._runtime.settings_sync.sync_all()
        # First, so that a step whose message is undeliverable is not sent again.
        while move_undeliverable(self._runtime):
            continue
        freed = set(Rescuer(self._runtime).rescue())
        for lane in self._runtime.broker.queues_admin.lanes():
            self._runtime.violations.note(lane, self._runtime.broker.queues_admin.check(lane))
        orphaned = self._remove_orphaned(freed)
        requeued, checked = self._send_missing()
        metrics.ORPHANED.inc(orphaned)
        return Report(requeued=requeued, released=len(freed), orphaned=orphaned, checked=checked)

    # --- Redis against SQL ---------------------------------------------------------------------------------------

    def _remove_orphaned(self, freed: set[str]) -> int:
        admin = self._runtime.broker.queues_admin
        orphaned = 0
        for lane in admin.lanes():
            pages: list[HeldEntries] = []
            for page in admin.entries(lane):
                pages.append(page)
                if sum(len(each.ids) + len(each.leases) for each in pages) >= self.batch:
                    orphaned += self._compare_pages(pages, freed)
                    pages = []
            orphaned += self._compare_pages(pages, freed)
        return orphaned

    def _compare_pages(self, pages: list[HeldEntries], freed: set[str]) -> int:
        """Release leases of dead workers, and remove messages that SQL does not know; returns how many of these."""
        live = {lease_holder(row["id"]) for row in self._runtime.database.read(workers.live)}
        admin = self._runtime.broker.queues_admin
        loose: list[tuple[str, str, str]] = []
        for page in pages:
            dead = [each for each in page.leases if each.worker.rpartition(".")[0] not in live]
            if admin.release(page.lane, page.account, dead):
                freed.update(each.entry_id for each in dead if each.entry_id)
            ids = (*page.ids, *(each.entry_id for each in dead))
            # A message without an account is not onelane's, and stays.
            loose += [(page.lane, page.account, each) for each in ids if each and page.account is not None]
        wanted = self._runtime.database.read(
            lambda connection: store.wanted_messages(connection, [entry_id for _, _, entry_id in loose])
        )
        unknown: dict[tuple[str, str], list[str]] = {}
        for lane, account, entry_id in loose:
            if (lane, account, entry_id) not in wanted:
                unknown.setdefault((lane, account), []).append(entry_id)
        return sum(self._remove(lane, account, ids) for (lane, account), ids in unknown.items())

    def _remove(self, lane: str, account: str, ids: list[str]) -> int:
        removed = self._runtime.broker.queues_admin.remove(lane, account, ids)
        if not removed:
            return 0
        log.warning("lane %s, account %r: %d message(s) had no step to run: %s", lane, account, len(removed), removed)
        # A job may have been resumed meanwhile, whose dispatch found the old message still in Redis.
        back = self._runtime.database.read(
            lambda connection: store.waiting_of(connection, removed, horizon_seconds=HORIZON_SECONDS)
        )
        back = [step for step in back if (step.lane, step.account) == (lane, account)]
        self._runtime.dispatcher.send_missing(back)
        return len(removed) - len(back)

    # --- SQL against Redis ---------------------------------------------------------------------------------------

    def _send_missing(self) -> tuple[int, int]:
        requeued = checked = 0
        last: Dispatch | None = None
        while found := self._waiting_after(last, horizon_seconds=HORIZON_SECONDS):
            requeued += self._runtime.dispatcher.send_missing(found)
            checked += len(found)
            last = found[-1]
        return requeued, checked

    # --- continuous comparison ---------------------------------------------------------------------------------------

    def compare_some(self) -> int:
        """Repair damaged tenant queues, and send lost steps: of these queues, and of a page of all waiting steps.

        Returns how many steps were sent. Raises as `reconcile`.
        """
        admin = self._runtime.broker.queues_admin
        for lane in self._runtime.lanes:
            self._runtime.violations.note(lane, admin.check_damaged(lane))
        sent = 0
        for lane, account in self._runtime.violations.take_queues(_MOST_QUEUES):
            sent += self._send_lost(self._waiting_in(lane, account))
        found = self._waiting_after(self._compared, horizon_seconds=_HELD_SECONDS, older_than=self.sent_seconds)
        self._compared = found[-1] if len(found) == self.batch else None
        return sent + self._send_lost(found)

    def _waiting_in(self, lane: str, account: str) -> list[Dispatch]:
        return self._runtime.database.read(
            lambda connection: store.waiting_in(
                connection, lane, account, horizon_seconds=_HELD_SECONDS, older_than=self.sent_seconds, limit=self.batch
            )
        )

    def _waiting_after(
        self, last: Dispatch | None, *, horizon_seconds: float, older_than: float = 0.0
    ) -> list[Dispatch]:
        return self._runtime.database.read(
            lambda connection: store.waiting_after(
                connection, last, horizon_seconds=horizon_seconds, older_than=older_than, limit=self.batch
            )
        )

    def _send_lost(self, steps: list[Dispatch]) -> int:
        """Send those of these steps that wait in SQL and are not in Redis."""
        by_lane: dict[str, list[tuple[str | None, str]]] = {}
        for step in steps:
            by_lane.setdefault(step.lane, []).append((step.account, step.id))
        lost: list[str] = []
        for lane, entries in by_lane.items():
            missing, violations = self._runtime.broker.queues_admin.missing(lane, entries)
            self._runtime.violations.note(lane, violations)
            lost += [entry_id for _, entry_id in missing]
        if not lost:
            return 0
        # A step that has started or ended since it was read is not lost.
        back = self._runtime.database.read(
            lambda connection: store.waiting_of(connection, lost, horizon_seconds=_HELD_SECONDS)
        )
        sent = self._runtime.dispatcher.send_missing(back)
        if sent:
            log.warning("Redis had lost %d waiting step(s): they were sent again", sent)
        return sent

    # --- detection of a loss -------------------------------------------------------------------------------------

    def _is_known(self, server: ServerInfo) -> bool:
        known = self._runtime.database.read(lambda connection: meta.get_many(connection, _GENERATION, _RUN_ID))
        generation = self._runtime.broker.queues_admin.generation()
        return (
            known.get(_RUN_ID) == server.run_id
            and known.get(_GENERATION) is not None
            and int(known[_GENERATION]) == generation
        )

    def _store_generation(self, server: ServerInfo) -> None:
        """Store a new generation on both sides, SQL first: a crash in between causes another rebuild.

        So does a server that was emptied during the rebuild: it does not get the number.
        """

        def work(connection: Connection) -> int:
            generation = int(meta.get_many(connection, _GENERATION).get(_GENERATION, "0")) + 1
            meta.put(connection, _GENERATION, str(generation))
            meta.put(connection, _RUN_ID, server.run_id)
            return generation

        generation = self._runtime.database.write(work)
        if not self._runtime.broker.queues_admin.set_generation(generation, only_if_there=True):
            log.warning("Redis was emptied during its rebuild: it is rebuilt again")


#: Repaired tenant queues that one run compares with SQL.
_MOST_QUEUES = 100
#: Steps that are due within this time were sent, or are retries that Redis has.
_HELD_SECONDS = HORIZON_SECONDS - 10.0
#: The generation of a server that is being rebuilt: one that SQL never has.
_IN_REBUILD = -1
#: Of this layout of Redis' keys: control planes of releases with different layouts run side by side, each over its own.
_GENERATION, _RUN_ID = f"redis_generation_{LAYOUT}", f"redis_run_id_{LAYOUT}"
