"""Makes Redis hold what SQL says: by itself after a loss, all the time a part of it, and whenever somebody asks for it.

A loss is noticed by a generation number that both sides carry and by the server's run id: Redis emptied, restarted,
restored from an old snapshot or replaced by another server all show as a mismatch. Then the settings are carried anew
and everything is gone through once: what dead workers hold is released, messages that SQL does not know are removed,
and every waiting step is enqueued once by its id, which does nothing for those that Redis has. Order and priority come
from SQL. All the time it moves what Redis has buried to the dead letters (`burials`).

A server can also lose single keys, by eviction or a partial restore, and the generation number does not show it. So
every run repairs the tenant queues that a script has found damaged, and compares some of the waiting steps with what
Redis holds: first those of the queues that were just repaired, then a page of all, round and round.

Keys of another layout, which another release uses or has left, are not read: SQL holds what is in them. They are
removed once nobody has used them for a time.

Invariants
- A message is removed only after SQL, asked later than Redis, said that its step does not wait and does not run.
- Both sides are noted as one only after all of that was done, so a crash half-way means another pass.
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
from ..dispatch import HORIZON_SECONDS
from ..runtime import Runtime
from .rescuer import Rescuer
from .undeliverable import move_undeliverable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What a reconciliation did."""

    #: Waiting steps that Redis did not have.
    requeued: int
    #: Steps that were taken from dead workers: their rows in SQL, or their leases in Redis.
    released: int
    #: Messages in Redis whose step SQL does not know, or that has nothing to run any more: removed.
    orphaned: int
    #: Waiting steps that were looked at.
    checked: int


class Reconciler:
    """See the module's docstring."""

    name = "reconciler"
    interval_seconds = 2.0
    batch = 1000
    #: Steps that were queued longer ago have been sent by whoever queued them.
    sent_seconds = 3.0
    #: Keys of another layout are looked for so often, and removed after so long without use.
    layouts_seconds, unused_seconds = 60.0, 600.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: The last step that was compared with Redis; None: the round begins anew.
        self._compared: Dispatch | None = None
        self._looked_for_layouts_at = float("-inf")

    def run_once(self) -> bool:
        server = self._runtime.broker.check_server()
        metrics.REDIS_UP.set(1)
        if not self._is_whole(server):
            known = self._runtime.database.read(lambda connection: meta.get_many(connection, _RUN_ID)).get(_RUN_ID)
            if known is None:
                log.info("Redis (run id %s) is new to this database", server.run_id)
            else:
                log.info("Redis (run id %s) is not the one that SQL knows: rebuilding it from SQL", server.run_id)
            # A server that is emptied from now on has lost this number, and will not be taken for the rebuilt one.
            self._runtime.broker.queues_admin.set_generation(_IN_REBUILD)
            report = self.reconcile()
            self._seal(server)
            metrics.REBUILDS.inc()
            # A first start, and a restart with all its data, are nothing to worry about.
            changed = known is not None and (report.requeued or report.released or report.orphaned)
            log.log(
                logging.WARNING if changed else logging.INFO,
                "Redis was rebuilt: %d of %d waiting step(s) were missing, %d were held by dead workers, "
                "%d message(s) had nothing to run",
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
                log.info("Redis held keys of layout %d that nobody used any more: removed", each)
            else:
                log.info("Redis holds keys of layout %d: a release that uses them runs or has just stopped", each)

    def reconcile(self) -> Report:
        """Go through all once; safe at any time, from several places at once.

        Raises:
            dramatiq's ConnectionClosed: Redis is away.
            Unavailable: the database is.
        """
        self._runtime.settings_sync.sync_all()
        # First, so that a step whose message died is not sent again to where it died.
        while move_undeliverable(self._runtime):
            continue
        freed = set(Rescuer(self._runtime).rescue())
        for lane in self._runtime.broker.queues_admin.lanes():
            self._runtime.violations.note(lane, self._runtime.broker.queues_admin.check(lane))
        orphaned = self._go_through_redis(freed)
        requeued, checked = self._go_through_sql()
        metrics.ORPHANED.inc(orphaned)
        return Report(requeued=requeued, released=len(freed), orphaned=orphaned, checked=checked)

    # --- Redis against SQL ---------------------------------------------------------------------------------------

    def _go_through_redis(self, freed: set[str]) -> int:
        admin = self._runtime.broker.queues_admin
        orphaned = 0
        for lane in admin.lanes():
            pages: list[HeldEntries] = []
            for page in admin.entries(lane):
                pages.append(page)
                if sum(len(each.ids) + len(each.leases) for each in pages) >= self.batch:
                    orphaned += self._look_at(pages, freed)
                    pages = []
            orphaned += self._look_at(pages, freed)
        return orphaned

    def _look_at(self, pages: list[HeldEntries], freed: set[str]) -> int:
        """Release what dead workers hold of these pages, and remove what SQL does not know; gives back how many."""
        live = {lease_holder(row["id"]) for row in self._runtime.database.read(workers.live)}
        admin = self._runtime.broker.queues_admin
        loose: list[tuple[str, str, str]] = []
        for page in pages:
            dead = [each for each in page.leases if each.worker.rpartition(".")[0] not in live]
            if admin.release(page.lane, page.account, dead):
                freed.update(each.entry_id for each in dead if each.entry_id)
            ids = (*page.ids, *(each.entry_id for each in dead))
            # A message without an account is nobody's step: whoever uses this broker for other things keeps it.
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
        log.warning("lane %s, account %r: %d message(s) had nothing to run: %s", lane, account, len(removed), removed)
        # Somebody may have let a job go on in the meantime, and found its old message still there.
        back = self._runtime.database.read(
            lambda connection: store.waiting_of(connection, removed, horizon_seconds=HORIZON_SECONDS)
        )
        back = [step for step in back if (step.lane, step.account) == (lane, account)]
        self._runtime.dispatcher.send_missing(back)
        return len(removed) - len(back)

    # --- SQL against Redis ---------------------------------------------------------------------------------------

    def _go_through_sql(self) -> tuple[int, int]:
        requeued = checked = 0
        last: Dispatch | None = None
        while True:

            def look(connection: Connection, last: Dispatch | None = last) -> list[Dispatch]:
                return store.waiting_after(connection, last, horizon_seconds=HORIZON_SECONDS, limit=self.batch)

            found = self._runtime.database.read(look)
            if not found:
                return requeued, checked
            requeued += self._runtime.dispatcher.send_missing(found)
            checked += len(found)
            last = found[-1]

    # --- some of it, all the time ------------------------------------------------------------------------------------

    def compare_some(self) -> int:
        """Repair damaged tenant queues, and send what Redis has lost of them and of a page of all waiting steps.

        Gives back how many steps were sent.

        Raises: as `reconcile`.
        """
        admin = self._runtime.broker.queues_admin
        for lane in self._runtime.lanes:
            self._runtime.violations.note(lane, admin.check_damaged(lane))
        sent = 0
        for lane, account in self._runtime.violations.take_queues(_MOST_QUEUES):
            sent += self._send_lost(self._waiting_in(lane, account))
        found = self._waiting_after(self._compared)
        self._compared = found[-1] if len(found) == self.batch else None
        return sent + self._send_lost(found)

    def _waiting_in(self, lane: str, account: str) -> list[Dispatch]:
        return self._runtime.database.read(
            lambda connection: store.waiting_in(
                connection, lane, account, horizon_seconds=_HELD_SECONDS, older_than=self.sent_seconds, limit=self.batch
            )
        )

    def _waiting_after(self, last: Dispatch | None) -> list[Dispatch]:
        return self._runtime.database.read(
            lambda connection: store.waiting_after(
                connection, last, horizon_seconds=_HELD_SECONDS, older_than=self.sent_seconds, limit=self.batch
            )
        )

    def _send_lost(self, steps: list[Dispatch]) -> int:
        """Send those of these steps that wait by SQL and that Redis does not hold."""
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
        # One that has started or ended since it was read is not lost.
        back = self._runtime.database.read(
            lambda connection: store.waiting_of(connection, lost, horizon_seconds=_HELD_SECONDS)
        )
        sent = self._runtime.dispatcher.send_missing(back)
        if sent:
            log.warning("Redis did not hold %d step(s) that wait by SQL: they were sent again", sent)
        return sent

    # --- whether it is the Redis that SQL knows ------------------------------------------------------------------

    def _is_whole(self, server: ServerInfo) -> bool:
        known = self._runtime.database.read(lambda connection: meta.get_many(connection, _GENERATION, _RUN_ID))
        generation = self._runtime.broker.queues_admin.generation()
        return (
            known.get(_RUN_ID) == server.run_id
            and known.get(_GENERATION) is not None
            and int(known[_GENERATION]) == generation
        )

    def _seal(self, server: ServerInfo) -> None:
        """Note a new generation on both sides, SQL first: a crash between them only means another rebuild.

        So does a server that was emptied during the rebuild: it gets no number.
        """

        def work(connection: Connection) -> int:
            generation = int(meta.get_many(connection, _GENERATION).get(_GENERATION, "0")) + 1
            meta.put(connection, _GENERATION, str(generation))
            meta.put(connection, _RUN_ID, server.run_id)
            return generation

        generation = self._runtime.database.write(work)
        if not self._runtime.broker.queues_admin.set_generation(generation, only_if_there=True):
            log.warning("Redis was emptied while it was rebuilt: it is rebuilt again")


#: Repaired tenant queues that one run compares with SQL.
_MOST_QUEUES = 100
#: Steps that are due within it were sent, or are retries that Redis holds.
_HELD_SECONDS = HORIZON_SECONDS - 10.0
#: The generation of a server that is being rebuilt: one that SQL never has.
_IN_REBUILD = -1
#: Of this layout of Redis' keys: control planes of releases with different layouts run side by side, each over its own.
_GENERATION, _RUN_ID = f"redis_generation_{LAYOUT}", f"redis_run_id_{LAYOUT}"
