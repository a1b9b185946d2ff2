"""Carries settings from SQL, where they are made, to Redis, where they act on the backlog at once.

SQL decides again at each start, so a setting that Redis has not heard of yet is late, never broken: a refused start
goes back with a short delay. A rebuild of Redis carries everything anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dramatiq.errors import BrokerConnectionError

from tenants.database import Database
from tenants.errors import Unavailable
from tenants.queues import FOR_GOOD, QueueError, QueueLimits, Rate, StoredSettings, TenantBroker, until_ms
from tenants.store import made_settings as store

log = logging.getLogger(__name__)

_NAMES_AT_ONCE = 500


class QueueSettings:
    """See the module's docstring."""

    def __init__(self, database: Database, broker: TenantBroker, lanes: Sequence[str]) -> None:
        self._database = database
        self._broker = broker
        self._lanes = tuple(lanes)

    def carry_account(self, account: str) -> bool:
        """Carry one account's limits and pauses; False when Redis or SQL is away (the next rebuild does it)."""
        try:
            self._carry(self._settings_of([account]))
        except (BrokerConnectionError, QueueError, Unavailable) as error:
            log.warning("Redis has not heard of the settings of account %r yet: %s", account, error)
            return False
        return True

    def carry_lanes(self) -> bool:
        """Carry the lanes' settings; False when Redis is away."""
        try:
            self._carry_lanes()
        except (BrokerConnectionError, QueueError) as error:
            log.warning("Redis has not heard of the lanes' settings yet: %s", error)
            return False
        return True

    def carry_all(self) -> int:
        """Carry everything, for a rebuild; gives back the number of accounts that have settings.

        What Redis has and SQL has not, a pause in an old snapshot for example, is set back to the defaults.

        Raises:
            dramatiq's ConnectionClosed: Redis is away.
        """
        self._carry_lanes()
        carried, last = 0, ""
        while names := self._names_after(last):
            self._carry(self._settings_of(names))
            carried += len(names)
            last = names[-1]
        for lane in self._lanes:
            for found in self._broker.queues_admin.accounts_with_settings(lane):
                self._carry(self._settings_of(found))
        return carried

    def _names_after(self, last: str) -> Sequence[str]:
        return self._database.read(
            lambda connection: store.accounts_with_settings(connection, after=last, limit=_NAMES_AT_ONCE)
        )

    def _settings_of(self, accounts: Sequence[str]) -> list[store.AccountSettings]:
        return self._database.read(lambda connection: store.of_accounts(connection, accounts)) if accounts else []

    def _carry_lanes(self) -> None:
        admin = self._broker.queues_admin
        made = {row["lane"]: row for row in self._database.read(store.lanes_with_settings)}
        for lane in sorted({*self._lanes, *made}):
            row = made.get(lane)
            if row is not None and row["paused"]:
                admin.pause(lane)
            else:
                admin.resume(lane)
            admin.set_lane_limits(lane, row["global_concurrency"] if row is not None else None)

    def _carry(self, settings: Sequence[store.AccountSettings]) -> None:
        for lane in self._lanes:
            self._broker.queues_admin.set_settings(lane, {each.account: _stored(each, lane) for each in settings})


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
