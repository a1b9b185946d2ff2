"""Carries settings from SQL, where they are made, to Redis, where they act on the backlog at once.

SQL decides again at each start, so a setting that Redis has not heard of yet is late, never broken: a refused start
goes back with a short delay. A rebuild of Redis carries everything anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dramatiq.errors import BrokerConnectionError

from tenants.account import LaneLimits
from tenants.database import Database
from tenants.queues import QueueError, QueueLimits, Rate, TenantBroker
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
        """Carry one account's limits and pauses; False when Redis is away (the next rebuild does it)."""
        settings = self._settings_of(account)
        try:
            self._carry(settings)
        except (BrokerConnectionError, QueueError) as error:
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
        """Carry everything, for a rebuild; gives back the number of accounts.

        Raises:
            dramatiq's ConnectionClosed: Redis is away.
        """
        self._carry_lanes()
        carried, last = 0, ""
        while names := self._names_after(last):
            for name in names:
                self._carry(self._settings_of(name))
            carried += len(names)
            last = names[-1]
        return carried

    def _names_after(self, last: str) -> Sequence[str]:
        return self._database.read(
            lambda connection: store.accounts_with_settings(connection, after=last, limit=_NAMES_AT_ONCE)
        )

    def _settings_of(self, account: str) -> store.AccountSettings:
        return self._database.read(lambda connection: store.of_account(connection, account))

    def _carry_lanes(self) -> None:
        admin = self._broker.queues_admin
        for row in self._database.read(store.lanes_with_settings):
            if row["paused"]:
                admin.pause(row["lane"])
            else:
                admin.resume(row["lane"])
            admin.set_lane_limits(row["lane"], row["global_concurrency"])

    def _carry(self, settings: store.AccountSettings) -> None:
        admin, account = self._broker.queues_admin, settings.account
        paused = {pause.lane: pause for pause in settings.pauses}
        for lane in self._lanes:
            admin.set_limits(lane, account, _limits(settings.limits.weight, settings.limits.lane(lane)))
            if lane in paused:
                admin.pause(lane, account, paused[lane].until)
            else:
                admin.resume(lane, account)
        if settings.held:
            admin.pause_account(account)
        else:
            admin.resume_account(account)


def _limits(weight: int, lane: LaneLimits) -> QueueLimits:
    return QueueLimits(
        weight=weight,
        concurrency=lane.concurrency,
        rate=Rate(lane.rate.limit, lane.rate.per) if lane.rate else None,
        ordering=lane.ordering,
    )
