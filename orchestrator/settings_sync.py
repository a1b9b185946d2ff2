"""Carries settings from SQL, where they are made, to Redis, where they act on the backlog at once.

SQL decides again at each start, so a setting that Redis has not heard of yet is late, never broken: a refused start
goes back with a short delay. A rebuild of Redis carries everything anew, and a loop (`loops/carrier.py`) carries what
Redis was not there to hear, and compares both sides all the time.

Invariant: whoever has written to Redis reads SQL once more, and writes again where it says something else by now. So
of several who carry the same account at a time, the last to write has written what SQL says.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from dramatiq.errors import BrokerConnectionError

from tenants.database import Database
from tenants.errors import Unavailable
from tenants.queues import FOR_GOOD, QueueError, QueueLimits, Rate, StoredSettings, TenantBroker, until_ms
from tenants.queues.notices import warn
from tenants.store import settings as store

log = logging.getLogger(__name__)

_NAMES_AT_ONCE = 500
#: A setting that changes faster than it is carried is left to the next comparison.
_MOST_WRITES = 10


class SettingsSync:
    """See the module's docstring."""

    def __init__(self, database: Database, broker: TenantBroker, lanes: Sequence[str]) -> None:
        self._database = database
        self._broker = broker
        self._lanes = tuple(lanes)
        self._mutex = threading.Lock()
        self._late: set[str] = set()
        self._lanes_are_late = False

    def sync_account(self, account: str) -> bool:
        """Carry one account's limits and pauses; False when Redis or SQL is away: `retry_failed` does it then."""
        try:
            self.sync([account])
        except (BrokerConnectionError, QueueError, Unavailable) as error:
            warn(log, error, "Redis has not heard of the settings of account %r yet: %s", account, error)
            with self._mutex:
                self._late.add(account)
            return False
        return True

    def sync_lanes(self) -> bool:
        """Carry the lanes' settings; False when Redis or SQL is away: `retry_failed` does it then."""
        try:
            self._sync_lanes()
        except (BrokerConnectionError, QueueError, Unavailable) as error:
            warn(log, error, "Redis has not heard of the lanes' settings yet: %s", error)
            self._lanes_are_late = True
            return False
        return True

    def retry_failed(self) -> None:
        """Carry what could not be carried before; what cannot be now stays late.

        Raises:
            dramatiq's ConnectionClosed: Redis is away.
            Unavailable: the database is.
        """
        with self._mutex:
            late = sorted(self._late)
        for start in range(0, len(late), _NAMES_AT_ONCE):
            page = late[start : start + _NAMES_AT_ONCE]
            with self._mutex:
                # Before it is carried: what fails meanwhile is noted anew.
                self._late.difference_update(page)
            try:
                self.sync(page)
            except Exception:
                with self._mutex:
                    self._late.update(page)
                raise
        if self._lanes_are_late:
            self._lanes_are_late = False
            try:
                self._sync_lanes()
            except Exception:
                self._lanes_are_late = True
                raise

    def sync_all(self) -> None:
        """Carry everything, for a rebuild.

        What Redis has and SQL has not, a pause in an old snapshot for example, is set back to the defaults.

        Raises:
            dramatiq's ConnectionClosed: Redis is away.
            Unavailable: the database is.
        """
        self._sync_lanes()
        for names in self.pages():
            self.sync(names)

    def pages(self) -> Iterator[Sequence[str]]:
        """The accounts that have settings in SQL, then those that have some in Redis; an account may come twice.

        Raises: as `sync_all`.
        """
        last = ""
        while names := self._names_after(last):
            yield names
            last = names[-1]
        for lane in self._lanes:
            yield from self._broker.queues_admin.accounts_with_settings(lane)

    def sync(self, accounts: Sequence[str]) -> int:
        """Carry these accounts' limits and pauses; gives back how many tenant queues had others in Redis.

        Raises: as `sync_all`.
        """
        if not accounts:
            return 0
        changed = 0
        settings = self._settings_of(accounts)
        for _ in range(_MOST_WRITES):
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
        made = self._made_for_lanes()
        for _ in range(_MOST_WRITES):
            for lane in sorted({*self._lanes, *made}):
                paused, global_concurrency = made.get(lane, (False, None))
                if paused:
                    admin.pause(lane)
                else:
                    admin.resume(lane)
                admin.set_lane_limits(lane, global_concurrency)
            before, made = made, self._made_for_lanes()
            if made == before:
                break

    def _made_for_lanes(self) -> dict[str, tuple[bool, int | None]]:
        """Of each lane that somebody configured: whether it is paused, and its global concurrency."""
        rows = self._database.read(store.lanes_with_settings)
        return {row["lane"]: (row["paused"], row["global_concurrency"]) for row in rows}


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
        account_paused=FOR_GOOD if settings.held else 0,
    )


def _longest(pauses: Sequence[int]) -> int:
    """Of several pauses of one tenant queue, the one that ends last."""
    return FOR_GOOD if FOR_GOOD in pauses else max(pauses, default=0)
