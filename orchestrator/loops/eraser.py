"""Advances erasures of accounts: ends running steps, removes rows and files, empties Redis, and checks the result.

Each step is committed, so any control plane can continue after another was killed. Rows are counted in the transaction
that removes them; the data in Redis are counted before the first removal.

Invariants
- No row is removed before all running steps have ended: a worker records an attempt's end after its processes are gone.
- An erasure is completed only after a check of every table and of Redis, a while after the last removal, found nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from tenants.queues import StoredSettings
from tenants.store import audit
from tenants.store.removal import erasures as store

from ..runtime import Runtime
from .undeliverable import move_undeliverable

log = logging.getLogger(__name__)

#: Undeliverable messages of a lane that are searched for the account's.
_UNDELIVERABLE = 1000


class Eraser:
    """See the module's docstring."""

    name = "eraser"
    interval_seconds = 1.0
    #: Jobs, or rows of another table, that one transaction removes.
    batch = 200
    #: Erasures that one run advances.
    at_once = 20
    #: Between the last removal and the check, so that concurrent writes are committed and found.
    settle_seconds = 2.0
    #: The longest wait for transactions that began before the erasure: a backup may take hours.
    patience_seconds = 60.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        """Advance each erasure by a step; True when there is more to do at once."""
        found = self._runtime.database.read(lambda connection: store.unfinished(connection, limit=self.at_once))
        began = time.monotonic()
        again = [self._advance(erasure) for erasure in found]
        if any(again):
            # Pause for as long as that took: SQLite has one writer, and its lock is not fair between processes.
            time.sleep(min(0.1, time.monotonic() - began))
        return any(again)

    def _advance(self, erasure: Mapping[Any, Any]) -> bool:
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
        # Each time, because Redis may have been unreachable when the erasure began.
        self._runtime.settings_sync.sync_account(account)
        if erasure["forced"]:
            database.write(lambda connection: store.cancel_running(connection, account))
        if database.read(lambda connection: store.count_running(connection, account)):
            return False
        counted = self._count_in_redis(account)

        def work(connection: Connection) -> bool:
            locked = store.lock(connection, erasure["id"], "stopping")
            if locked is None or store.count_running(connection, account):
                return False
            if erasure["since"] < self.patience_seconds and store.older_transactions(connection, locked):
                return False
            store.set_status(connection, locked, "removing", removed=counted)
            return True

        return database.write(work)

    def _remove(self, erasure: Mapping[Any, Any]) -> bool:
        account = erasure["account"]

        def work(connection: Connection) -> bool:
            locked = store.lock(connection, erasure["id"], "removing")
            if locked is None:
                return False
            gone = store.remove_some(connection, account, limit=self.batch, remove_files=self._remove_files)
            store.set_status(connection, locked, "removing" if gone else "checking", removed=gone)
            return bool(gone)

        return self._runtime.database.write(work)

    def _check(self, erasure: Mapping[Any, Any]) -> bool:
        """Empty Redis, and check whether anything is left."""
        account = erasure["account"]
        if erasure["since"] < self.settle_seconds:
            return False
        while move_undeliverable(self._runtime):
            continue
        self._empty_redis(account)
        traces = self._traces(account)
        # Tables are scanned only once Redis is empty: until then, this check runs each second.
        left = {} if traces else self._runtime.database.read(lambda connection: store.remaining(connection, account))

        def work(connection: Connection) -> bool:
            locked = store.lock(connection, erasure["id"], "checking")
            if locked is None:
                return False
            if left:
                gone = store.remove_without_jobs(connection, account, remove_files=self._remove_files)
                store.set_status(connection, locked, "removing", removed=gone, remaining=sum(left.values()))
            elif traces:
                store.set_status(connection, locked, "checking", remaining=len(traces))
            else:
                store.finish(connection, locked)
                self._record_completion(connection, locked)
            return bool(left)

        return self._runtime.database.write(work)

    def _record_completion(self, connection: Connection, locked: Mapping[Any, Any]) -> None:
        audit.record(
            connection,
            actor="eraser",
            address="",
            action="account erased",
            target=f"/v1/admin/erasures/{locked['id']}",
            details={"removed": locked["removed"], "remaining": 0},
        )
        log.info("account %r was erased (erasure %s): %s", locked["account"], locked["id"], locked["removed"])

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
        """Remove everything but leased messages, which stay until they are settled; the check then repeats this."""
        admin = self._runtime.broker.queues_admin
        for lane in admin.lanes():
            admin.purge(lane, account)
            admin.set_settings(lane, {account: StoredSettings()})
            admin.delete(lane, account)

    def _traces(self, account: str) -> list[str]:
        """`lane: kind of key` of everything that Redis has of the account."""
        admin = self._runtime.broker.queues_admin
        found = []
        for lane in admin.lanes():
            found += [f"{lane}: {kind}" for kind in admin.traces(lane, account)]
            found += [f"{lane}: buried" for each in admin.buried(lane, _UNDELIVERABLE) if each.account == account]
        return found
