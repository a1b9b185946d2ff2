"""Copies settings from SQL to Redis, where they affect the waiting messages at once.

SQL checks again at each start, so a setting that Redis does not have yet is late, never violated: the refused message
goes back with a short delay. A rebuild of Redis copies everything, and a loop (`loops/settings_sync.py`) retries failed
copies and compares both sides cyclically.

Invariant: after a write to Redis SQL is read again, and written again if it has changed. So of several concurrent
copies of the same account the last write has the settings of SQL.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from dramatiq.errors import BrokerConnectionError

from tenants.database.transactions import Database
from tenants.errors import Unavailable
from tenants.queues import FOR_GOOD, QueueError, QueueLimits, Rate, StoredSettings, TenantBroker, until_ms
from tenants.queues.notices import warn
from tenants.store.accounts import lanes
from tenants.store.accounts import settings as store

log = logging.getLogger(__name__)

_NAMES_AT_ONCE = 500
#: A setting that keeps changing meanwhile is left to the next comparison.
_MAX_WRITES = 10


class SettingsSync:
    """See the module's docstring."""

    def __init__(self, database: Database, broker: TenantBroker, lanes: Sequence[str]) -> None:
        self._database = database
        self._broker = broker
        self._lanes = tuple(lanes)
        self._mutex = threading.Lock()
        self._failed: set[str] = set()
        self._lanes_failed = False

    def sync_account(self, account: str) -> bool:
        """Copy one account's limits and pauses; False when Redis or SQL is unreachable: then `retry_failed` does."""
        try:
            self.sync([account])
        except (BrokerConnectionError, QueueError, Unavailable) as error:
            warn(log, error, "the settings of account %r are not in Redis yet: %s", account, error)
            with self._mutex:
                self._failed.add(account)
            return False
        return True

    def sync_lanes(self) -> bool:
        """As `sync_account`, for the settings of all lanes."""
        try:
            self._sync_lanes()
        except (BrokerConnectionError, QueueError, Unavailable) as error:
            warn(log, error, "the settings of lanes are not in Redis yet: %s", error)
            self._lanes_failed = True
            return False
        return True

    def retry_failed(self) -> None:
        """Copy what failed before; what fails again is kept for the next call.

        Raises:
            dramatiq's ConnectionClosed: Redis is unreachable.
            Unavailable: the database is.
        """
        with self._mutex:
            failed = sorted(self._failed)
        for start in range(0, len(failed), _NAMES_AT_ONCE):
            page = failed[start : start + _NAMES_AT_ONCE]
            with self._mutex:
                # Before the copy, so that a concurrent failure adds its account again.
                self._failed.difference_update(page)
            try:
                self.sync(page)
            except Exception:
                with self._mutex:
                    self._failed.update(page)
                raise
        if self._lanes_failed:
            self._lanes_failed = False
            try:
                self._sync_lanes()
            except Exception:
                self._lanes_failed = True
                raise

    def sync_all(self) -> None:
        """Copy everything, for a rebuild.

        Settings that only Redis has, such as a pause in an old snapshot, are reset to the defaults.

        Raises:
            dramatiq's ConnectionClosed: Redis is unreachable.
            Unavailable: the database is.
        """
        self._sync_lanes()
        for names in self.pages():
            self.sync(names)

    def pages(self) -> Iterator[Sequence[str]]:
        """The accounts with settings in SQL, then those with settings in Redis; an account may come twice.

        Raises: as `sync_all`.
        """
        last = ""
        while names := self._names_after(last):
            yield names
            last = names[-1]
        for lane in self._lanes:
            yield from self._broker.queues_admin.accounts_with_settings(lane)

    def sync(self, accounts: Sequence[str]) -> int:
        """Copy these accounts' limits and pauses; returns how many tenant queues had others in Redis.

        Raises: as `sync_all`.
        """
        if not accounts:
            return 0
        changed = 0
        settings = self._settings_of(accounts)
        for _ in range(_MAX_WRITES):
            for lane in self._lanes:
                stored = {each.account: _stored(each, lane) for each in settings}
                changed += self._broker.queues_admin.set_settings(lane, stored)
            before, settings = settings, self._settings_of(accounts)
            if settings == before:
                break
        return changed

    def _names_after(self, last: str) -> Sequence[str]:
        return self._database.read(
            lambda connection: store.accounts_with_settings(connection, after=last, limit=_NAMES_AT_ONCE)
        )

    def _settings_of(self, accounts: Sequence[str]) -> list[store.AccountSettings]:
        return self._database.read(lambda connection: store.of_accounts(connection, accounts))

    def _sync_lanes(self) -> None:
        admin = self._broker.queues_admin
        configured = self._lane_settings()
        for _ in range(_MAX_WRITES):
            for lane in sorted({*self._lanes, *configured}):
                paused, global_concurrency = configured.get(lane, (False, None))
                if paused:
                    admin.pause(lane)
                else:
                    admin.resume(lane)
                admin.set_lane_limits(lane, global_concurrency)
            before, configured = configured, self._lane_settings()
            if configured == before:
                break

    def _lane_settings(self) -> dict[str, tuple[bool, int | None]]:
        """Of each configured lane: whether it is paused, and its global concurrency."""
        configured = self._database.read(lanes.settings)
        return {lane: (each["paused"], each["global_concurrency"]) for lane, each in configured.items()}


def _stored(settings: store.AccountSettings, lane: str) -> StoredSettings:
    limits = settings.limits.lane(lane)
    pauses = [until_ms(pause.until) for pause in settings.pauses if pause.lane == lane]
    return StoredSettings(
        limits=QueueLimits(
            weight=settings.limits.weight,
            concurrency=limits.concurrency,
            rate=Rate(limits.rate.limit, limits.rate.per) if limits.rate else None,
            ordering=limits.ordering,
        ),
        queue_paused=_longest(pauses),
        account_paused=FOR_GOOD if settings.is_paused else 0,
    )


def _longest(pauses: Sequence[int]) -> int:
    """Of several pauses of one tenant queue, the one that ends last."""
    return FOR_GOOD if FOR_GOOD in pauses else max(pauses, default=0)
