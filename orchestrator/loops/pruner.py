"""Removes ended jobs beyond what is kept, old events and the like, in small batches; and their files."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlalchemy import Connection

from tenants.store import alerts, backoffs, circuits, schedules
from tenants.store import pruning as store

from ..circuits import close_if_turned_off
from ..runtime import Runtime

log = logging.getLogger(__name__)

#: Alerts that did not come up again for so long are removed; so are circuits of queues that were not used since.
ALERT_SECONDS = 30 * 86400.0
FAILURES_SECONDS = 7 * 86400.0


class Pruner:
    """See the module's docstring."""

    name = "pruner"
    interval_seconds = 300.0
    batch = 100

    def __init__(self, runtime: Runtime, retention: store.Retention | None = None) -> None:
        self._runtime = runtime
        self._retention = retention or store.Retention(
            completed=runtime.settings.keep_completed_jobs,
            failed=runtime.settings.keep_failed_jobs,
            grace=runtime.settings.keep_jobs_seconds,
        )

    def run_once(self) -> bool:
        """One batch; True when there may be more."""
        database, retention = self._runtime.database, self._retention

        def jobs(connection: Connection) -> store.Pruned:
            return store.prune_jobs(connection, retention, limit=self.batch)

        def rest(connection: Connection) -> int:
            return store.prune_rest(connection, retention, limit=10 * self.batch)

        pruned = database.write(jobs)
        # The rows are gone and committed: a crash here leaves files that nothing names, never a row without its file.
        self._remove_files(pruned.paths)
        others = database.write(rest)
        others += database.write(
            lambda connection: schedules.forget_fires(connection, retention.events, limit=10 * self.batch)
        )
        database.write(backoffs.forget_past)
        database.write(lambda connection: alerts.forget(connection, older_than=ALERT_SECONDS))
        database.write(lambda connection: circuits.forget(connection, older_than=FAILURES_SECONDS))
        close_if_turned_off(self._runtime)
        if pruned.jobs:
            log.info("%d ended job(s) were removed", pruned.jobs)
        return pruned.jobs >= self.batch or others >= 10 * self.batch

    def _remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            (self._runtime.settings.data_dir / path).unlink(missing_ok=True)
