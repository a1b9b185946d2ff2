"""Fills the gauges: lane totals from Redis, live workers and drafts to review from SQL, and the broker's invariants.

The invariants are checked (and violations repaired) a few pages a run, cyclically, so that a lane with many tenant
queues costs no more a run than a small one. While pages have violations the run continues, because a lost key of a lane
affects all of its queues. Violations stay in the gauge for ten minutes.
"""

from __future__ import annotations

import logging
from itertools import count

from dramatiq.errors import BrokerConnectionError

from tenants.database.trouble import sentence
from tenants.queues import CheckPosition, QueueError, ServerRefuses
from tenants.queues.errors import REFUSALS
from tenants.store import workers as store
from tenants.store import writability
from tenants.store.accounts import circuits
from tenants.store.dead_letters import alerts
from tenants.store.publishing import publications

from .. import metrics
from ..runtime import Runtime

log = logging.getLogger(__name__)

#: Pages of each lane that one run checks; and the most, while they have violations.
CHECKED_PAGES, MOST_PAGES = 20, 5000


class GaugeLoop:
    """See the module's docstring."""

    name = "gauges"
    interval_seconds = 5.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._positions: dict[str, CheckPosition | None] = {}
        #: Why the database took no writes at the last run.
        self._reason: str | None = None

    def run_once(self) -> bool:
        self._writability()
        metrics.WORKERS.set(len(self._runtime.database.read(store.live)))
        metrics.NEEDS_REVIEW.set(self._runtime.database.read(publications.awaiting_review))
        if self._runtime.settings.alert_urls:
            metrics.ALERTS_OVERDUE.set(self._runtime.database.read(alerts.overdue))
        found = self._runtime.database.read(circuits.open_by_lane)
        for lane in self._runtime.lanes:
            metrics.OPEN_CIRCUITS.labels(lane).set(found.get(lane, 0))
        try:
            faults = self._runtime.broker.check_health().faults
            for reason in (*REFUSALS, "evicting"):
                metrics.DEGRADED.labels("redis", reason).set(int(reason in faults))
            for lane in self._runtime.lanes:
                self._lane(lane)
                self._check(lane)
        except ServerRefuses:
            metrics.REDIS_UP.set(1)  # it answers
            raise
        except (BrokerConnectionError, QueueError):
            metrics.REDIS_UP.set(0)
            raise
        metrics.REDIS_UP.set(1)
        return False

    def _writability(self) -> None:
        reason = writability.reason(self._runtime.database)
        if reason is not None:
            metrics.DEGRADED.labels("database", reason).set(1)
        if reason == self._reason:
            return
        if self._reason is not None:
            metrics.DEGRADED.labels("database", self._reason).set(0)
        if reason is None:
            log.warning("the database takes writes again")
        else:
            log.error("the database is degraded: %s", sentence(reason))
        self._reason = reason

    def _lane(self, lane: str) -> None:
        totals = self._runtime.broker.queues_admin.totals(lane)
        for state in ("waiting", "active", "delayed"):
            metrics.LANE_MESSAGES.labels(lane, state).set(getattr(totals, state))
        metrics.LANE_OLDEST_WAIT.labels(lane).set(totals.oldest_wait or 0.0)
        metrics.LANE_READY_ACCOUNTS.labels(lane).set(totals.ready)
        metrics.LANE_STARTS.labels(lane).set(totals.started)
        metrics.LANE_DWELL.labels(lane).set(totals.dwelt_seconds)

    def _check(self, lane: str) -> None:
        for page in count(1):
            violations, position = self._runtime.broker.queues_admin.check_page(lane, self._positions.get(lane))
            self._positions[lane] = position
            self._runtime.violations.note(lane, violations)
            if position is None or page >= MOST_PAGES or (page >= CHECKED_PAGES and not violations):
                break
        metrics.INVARIANT_VIOLATIONS.labels(lane).set(self._runtime.violations.recent(lane))
