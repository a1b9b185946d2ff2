"""Fills the gauges: lane totals from Redis, live workers from SQL, and the broker's invariants."""

from __future__ import annotations

from dramatiq.errors import BrokerConnectionError

from tenants.queues import QueueError
from tenants.store import workers as store

from .. import metrics
from ..runtime import Runtime


class GaugeLoop:
    """See the module's docstring."""

    name = "gauges"
    interval_seconds = 5.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        metrics.WORKERS.set(len(self._runtime.database.read(store.live)))
        try:
            for lane in self._runtime.lanes:
                self._lane(lane)
        except (BrokerConnectionError, QueueError):
            metrics.REDIS_UP.set(0)
            raise
        metrics.REDIS_UP.set(1)
        return False

    def _lane(self, lane: str) -> None:
        totals = self._runtime.broker.queues_admin.totals(lane)
        for state in ("waiting", "active", "delayed"):
            metrics.LANE_MESSAGES.labels(lane, state).set(getattr(totals, state))
        metrics.LANE_OLDEST_WAIT.labels(lane).set(totals.oldest_wait or 0.0)
        metrics.LANE_READY_ACCOUNTS.labels(lane).set(totals.ready)
