"""Sees to it that Redis hears of every setting: what it was not there to hear, and whatever else differs from SQL.

A setting is committed in SQL and then carried to Redis. Redis may be away at that moment, or the process may die
between the two; nothing is lost in Redis then, so no rebuild follows, and an account that was resumed would rest for
ever. So what this process could not carry is carried as soon as Redis is back, and all settings of both sides are gone
through without an end, a page at a time. Circuits that are open although the setting turns them off are closed first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ..circuits import close_if_turned_off
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
        """One page. A pass that an error has ended begins anew."""
        close_if_turned_off(self._runtime.settings, self._runtime.database, self._runtime.settings_sync)
        self._settings.retry_failed()
        names = next(self._pages, None)
        if names is None:
            self._settings.sync_lanes()
            self._pages = self._settings.pages()
            names = next(self._pages, ())
        changed = self._settings.sync(names)
        if changed:  # also by a pause whose time has passed
            log.info("%d tenant queue(s) had other settings in Redis than in SQL, and have SQL's now", changed)
        return False
