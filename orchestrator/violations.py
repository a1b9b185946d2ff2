"""Invariants of the broker that did not hold: logged, counted for the gauge, and remembered for the reconciler.

The broker names only what it has repaired. What was lost with its bytes it cannot repair, so the tenant queues are
remembered here, and the reconciler compares them with SQL next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from tenants.queues import Violation

log = logging.getLogger(__name__)

#: How long a violation is shown by the gauge: long enough for every scrape to see it.
SHOWN_SECONDS = 600.0
#: Violations of one call that are logged one by one.
_MOST_LINES = 10
#: Tenant queues that are remembered. Beyond it the reconciler's round over all waiting steps finds what is lost.
_MOST_REMEMBERED = 10_000


class Violations:
    """See the module's docstring. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        #: Lane → when violations were found, and how many.
        self._found: dict[str, deque[tuple[float, int]]] = {}
        self._queues: dict[tuple[str, str], None] = {}

    def note(self, lane: str, violations: Sequence[Violation]) -> None:
        """Log and count what a check has found and repaired."""
        if not violations:
            return
        with self._mutex:
            self._found.setdefault(lane, deque()).append((self._clock(), len(violations)))
            for each in violations:
                if each.account and len(self._queues) < _MOST_REMEMBERED:
                    self._queues[lane, each.account] = None
        for each in violations[:_MOST_LINES]:
            whose = "" if each.account is None else f" of account {each.account!r}"
            log.error("lane %s%s: invariant %s did not hold, repaired (%s)", lane, whose, each.kind, each.detail)
        if len(violations) > _MOST_LINES:
            log.error("lane %s: %d more invariants did not hold, repaired", lane, len(violations) - _MOST_LINES)

    def recent(self, lane: str) -> int:
        """How many were found in the last ten minutes."""
        with self._mutex:
            found = self._found.get(lane, deque())
            while found and found[0][0] < self._clock() - SHOWN_SECONDS:
                found.popleft()
            return sum(number for _, number in found)

    def take_queues(self, most: int) -> list[tuple[str, str]]:
        """Tenant queues (lane, account) that were repaired and not yet compared with SQL; each is given back once."""
        with self._mutex:
            taken = list(self._queues)[:most]
            for each in taken:
                del self._queues[each]
        return taken
