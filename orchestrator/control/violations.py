"""Violated invariants of the broker: logged, counted for the gauge, and remembered for the reconciler.

The broker reports what it has repaired. It cannot restore lost messages, so the reconciler compares the tenant queues
that are remembered here with SQL.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from tenants.queues import Violation

log = logging.getLogger(__name__)

#: How long the gauge shows a violation: longer than any scrape interval.
SHOWN_SECONDS = 600.0
#: The most violations of one call that are logged singly.
_MAX_LINES = 10
#: The most tenant queues that are remembered. The reconciler's cycle over all waiting steps covers others.
_MAX_QUEUES = 10_000


class Violations:
    """See the module's docstring. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        #: Lane → when violations were found, and how many.
        self._found: dict[str, deque[tuple[float, int]]] = {}
        self._queues: dict[tuple[str, str], None] = {}

    def note(self, lane: str, violations: Sequence[Violation]) -> None:
        """Log and count the violations that a check has repaired."""
        if not violations:
            return
        with self._mutex:
            self._found.setdefault(lane, deque()).append((self._clock(), len(violations)))
            for each in violations:
                if each.account and len(self._queues) < _MAX_QUEUES:
                    self._queues[lane, each.account] = None
        for each in violations[:_MAX_LINES]:
            whose = "" if each.account is None else f" of account {each.account!r}"
            log.error("lane %s%s: invariant %s did not hold, repaired (%s)", lane, whose, each.kind, each.detail)
        if len(violations) > _MAX_LINES:
            log.error("lane %s: %d more invariants did not hold, repaired", lane, len(violations) - _MAX_LINES)

    def recent(self, lane: str) -> int:
        """How many were found in the last ten minutes."""
        with self._mutex:
            found = self._found.get(lane, deque())
            while found and found[0][0] < self._clock() - SHOWN_SECONDS:
                found.popleft()
            return sum(number for _, number in found)

    def take_queues(self, most: int) -> list[tuple[str, str]]:
        """Repaired tenant queues (lane, account) that were not compared with SQL yet; each is returned once."""
        with self._mutex:
            taken = list(self._queues)[:most]
            for each in taken:
                del self._queues[each]
        return taken
