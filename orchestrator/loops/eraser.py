"""Goes on with erasures of accounts: ends what runs, removes rows and files, empties Redis, and looks for what is left.

A step at a time, each committed, so that any control plane goes on where another stopped or was killed. Rows are
counted by the transaction that removes them; Redis, which has no part in transactions, is counted before anything is
removed.

Invariants
- No row goes before everything that runs has ended: a worker writes an attempt's end once its processes are gone.
- An erasure is completed only after a look at every table and at Redis, a while after the last removal, found nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from tenants.queues import StoredSettings
from tenants.store import audit
from tenants.store import erasures as store

from ..runtime import Runtime
from .undeliverable import move_undeliverable

log = logging.getLogger(__name__)

#: Graves of a lane that are looked through for the account's.
_GRAVES = 1000


class Eraser:
    """See the module's docstring."""

    name = "eraser"
    interval_seconds = 1.0
    #: Jobs, or rows of another table, that one transaction removes.
    batch = 200
    #: Erasures that take turns.
    at_once = 20
    #: Between the last removal and the check: what was under way elsewhere has come to light by then.
    settle_seconds = 2.0
    #: A transaction that began before the erasure is waited for so long; a backup would last for hours.
    patience_seconds = 60.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        """Go a step on with each; True when there is more to do at once."""
        found = self._runtime.database.read(lambda connection: store.unfinished(connection, limit=self.at_once))
        began = time.monotonic()
        again = [self._go_on(erasure) for erasure in found]
        if any(again):
            # Half of the time belongs to others: on SQLite there is one writer, and no queue for it over processes.
            time.sleep(min(0.1, time.monotonic() - began))
        return any(again)

    def _go_on(self, erasure: Mapping[Any, Any]) -> bool:
        match erasure["status"]:
            case "stopping":
                return self._stop(erasure)
            case "removing":
                return self._remove(erasure)
            case _:
                return self._check(erasure)

    # --- the steps -----------------------------------------------------------------------------------------------

    def _stop(self, erasure: Mapping[Any, Any]) -> bool:
        account, database = erasure["account"], self._runtime.database
        # Carried again each time: Redis may have been away when the erasure began.
        self._runtime.settings_sync.sync_account(account)
        if erasure["forced"]:
            database.write(lambda connection: store.cancel_running(connection, account))
        if database.read(lambda connection: store.count_running(connection, account)):
            return False
        counted = self._count_in_redis(account)

        def work(connection: Connection) -> bool:
            held = store.hold(connection, erasure["id"], "stopping")
            if held is None or store.count_running(connection, account):
                return False
            if erasure["since"] < self.patience_seconds and store.older_transactions(connection, held):
                return False
            store.move(connection, held, "removing", removed=counted)
            return True

        return database.write(work)

    def _remove(self, erasure: Mapping[Any, Any]) -> bool:
        account = erasure["account"]

        def work(connection: Connection) -> bool:
            held = store.hold(connection, erasure["id"], "removing")
            if held is None:
                return False
            gone = store.remove_some(connection, account, limit=self.batch, remove_files=self._remove_files)
            store.move(connection, held, "removing" if gone else "checking", removed=gone)
            return bool(gone)

        return self._runtime.database.write(work)

    def _check(self, erasure: Mapping[Any, Any]) -> bool:
        """Empty Redis, and look whether anything is left anywhere."""
        account = erasure["account"]
        if erasure["since"] < self.settle_seconds:
            return False
        while move_undeliverable(self._runtime):
            continue
        self._empty_redis(account)
        traces = self._traces(account)
        # Whole tables are read once Redis has nothing more: what a worker still holds is looked at each second.
        left = {} if traces else self._runtime.database.read(lambda connection: store.remaining(connection, account))

        def work(connection: Connection) -> bool:
            held = store.hold(connection, erasure["id"], "checking")
            if held is None:
                return False
            if left:
                gone = store.sweep(connection, account, remove_files=self._remove_files)
                store.move(connection, held, "removing", removed=gone, remaining=sum(left.values()))
            elif traces:
                store.move(connection, held, "checking", remaining=len(traces))
            else:
                store.finish(connection, held)
                self._tell(connection, held)
            return bool(left)

        return self._runtime.database.write(work)

    def _tell(self, connection: Connection, held: Mapping[Any, Any]) -> None:
        audit.record(
            connection,
            actor="eraser",
            address="",
            action="account erased",
            target=f"/v1/admin/erasures/{held['id']}",
            details={"removed": held["removed"], "remaining": 0},
        )
        log.info("account %r was erased (erasure %s): %s", held["account"], held["id"], held["removed"])

    # --- outside of the database ---------------------------------------------------------------------------------

    def _remove_files(self, paths: Sequence[str]) -> None:
        for path in paths:
            (self._runtime.settings.data_dir / path).unlink(missing_ok=True)

    def _count_in_redis(self, account: str) -> dict[str, int]:
        admin = self._runtime.broker.queues_admin
        lanes = admin.lanes()
        found = [each for lane in lanes if (each := admin.describe(lane, account)) is not None]
        return {
            "redis_messages": sum(each.waiting + each.delayed + each.active for each in found),
            "redis_queues": sum(each.standing != "absent" for each in found),
            "redis_settings": sum("limits" in admin.traces(lane, account) for lane in lanes),
        }

    def _empty_redis(self, account: str) -> None:
        """What is leased there stays until it is settled; then it is looked at again."""
        admin = self._runtime.broker.queues_admin
        for lane in admin.lanes():
            admin.purge(lane, account)
            admin.set_settings(lane, {account: StoredSettings()})
            admin.delete(lane, account)

    def _traces(self, account: str) -> list[str]:
        """`lane: kind of key` of whatever Redis still has of the account."""
        admin = self._runtime.broker.queues_admin
        found = []
        for lane in admin.lanes():
            found += [f"{lane}: {kind}" for kind in admin.traces(lane, account)]
            found += [f"{lane}: buried" for grave in admin.buried(lane, _GRAVES) if grave.account == account]
        return found
