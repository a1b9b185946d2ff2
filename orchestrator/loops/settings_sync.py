"""Synchronizes settings from SQL to Redis: those whose write to Redis failed, and cyclically all, a page a run.

A setting is committed in SQL and then written to Redis. If Redis is unreachable at that moment, or the process dies in
between, Redis has lost nothing, so no rebuild follows; without this loop a resumed account would stay paused forever.
Open circuits are closed first if circuits are turned off.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from tenants.store.accounts import circuits

from ..control.circuits import circuit_policy
from ..runtime import Runtime

log = logging.getLogger(__name__)


class SettingsSyncLoop:
    """See the module's docstring."""

    name = "settings_sync"
    interval_seconds = 5.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings_sync
        self._pages: Iterator[Sequence[str]] = iter(())

    def run_once(self) -> bool:
        """Synchronize one page; after an error the cycle begins again."""
        self._close_circuits_if_turned_off()
        self._settings.retry_failed()
        names = next(self._pages, None)
        if names is None:
            self._settings.sync_lanes()
            self._pages = self._settings.pages()
            names = next(self._pages, ())
        changed = self._settings.sync(names)
        if changed:  # also by an expired pause
            log.info("the settings of %d tenant queue(s) differed in Redis, and were corrected", changed)
        return False

    def _close_circuits_if_turned_off(self) -> None:
        """Without a policy no canary would close the circuits that are open."""
        if circuit_policy(self._runtime.settings) is not None:
            return
        for account in self._runtime.database.write(circuits.close_all):
            log.info("the circuits of account %r are closed: ONELANE_CIRCUIT_FAILURES is 0", account)
            self._settings.sync_account(account)
