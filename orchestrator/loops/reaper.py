"""Deletes tenant queues that are empty and were not used for a time (a setting). A concurrent enqueue always wins."""

from __future__ import annotations

import logging

from dramatiq.errors import BrokerConnectionError

from .. import metrics
from ..runtime import Runtime

log = logging.getLogger(__name__)


class Reaper:
    """See the module's docstring."""

    name = "reaper"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.interval_seconds = runtime.settings.reap_interval_seconds

    def run_once(self) -> bool:
        reaped = self.reap(self._runtime.settings.reap_idle_seconds)
        if reaped:
            log.info("%d idle tenant queue(s) were deleted", len(reaped))
        return False

    def reap(self, idle_seconds: float, *, dry_run: bool = False) -> list[tuple[str, str]]:
        """Delete tenant queues that were idle for longer; returns (lane, account) of each, also if Redis fails halfway.

        Raises:
            BrokerConnectionError: Redis is unreachable; nothing was deleted.
        """
        reaped: list[tuple[str, str]] = []
        for lane in self._runtime.lanes:
            try:
                found = self._runtime.broker.queues_admin.reap(idle_seconds, lane=lane, dry_run=dry_run)
            except BrokerConnectionError as error:
                if not reaped:
                    raise
                log.warning("idle tenant queues of lane %s and later ones were not deleted: %s", lane, error)
                break
            reaped += [(lane, account) for lane, account in found if account is not None]
        if not dry_run:
            metrics.REAPED.inc(len(reaped))
        return reaped
