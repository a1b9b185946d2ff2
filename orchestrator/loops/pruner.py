"""Removes ended jobs beyond the retention, with their files, and other old rows, in small batches."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tenants.store.accounts import circuits
from tenants.store.dead_letters import alerts
from tenants.store.jobs import schedules
from tenants.store.removal import pruning as store
from tenants.store.steps import provider_backoffs

from ..runtime import Runtime

log = logging.getLogger(__name__)

#: Alerts without an occurrence for so long, and circuits of queues that were not used for so long, are removed.
ALERT_SECONDS = 30 * 86400.0
CIRCUIT_SECONDS = 7 * 86400.0


class Pruner:
    """See the module's docstring."""

    name = "pruner"
    interval_seconds = 300.0
    #: Jobs that one transaction removes, and that one search finds.
    batch = 100
    looked_for = 1000

    def __init__(self, runtime: Runtime, retention: store.Retention | None = None) -> None:
        self._runtime = runtime
        self._retention = retention or store.Retention(
            completed=runtime.settings.keep_completed_jobs,
            failed=runtime.settings.keep_failed_jobs,
            grace=runtime.settings.keep_jobs_seconds,
            max_age=runtime.settings.keep_jobs_at_most_seconds,
        )

    def run_once(self) -> bool:
        """Remove some batches; True when there may be more."""
        database, retention = self._runtime.database, self._retention
        found = store.candidates(database, retention, limit=self.looked_for)
        removed = 0
        for first in range(0, len(found), self.batch):
            pruned = store.remove(database, found[first : first + self.batch])
            # After the commit: a crash here leaves files without a row, never a row without its file.
            self._remove_files(pruned.paths)
            removed += pruned.jobs
        others = store.prune_rest(database, retention, limit=self.looked_for)
        others += database.write(
            lambda connection: schedules.remove_old_fires(connection, retention.events, limit=self.looked_for)
        )
        database.write(provider_backoffs.forget_past)
        database.write(lambda connection: alerts.forget(connection, older_than=ALERT_SECONDS))
        database.write(lambda connection: circuits.forget(connection, older_than=CIRCUIT_SECONDS))
        if removed:
            log.info("%d ended job(s) were removed", removed)
        # Candidates that were not removed are locked or needed now; a later run finds them again.
        return (removed > 0 and len(found) >= self.looked_for) or others >= self.looked_for

    def _remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            (self._runtime.settings.data_dir / path).unlink(missing_ok=True)
