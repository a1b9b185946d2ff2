"""The thread budget: the free worker threads of a process, shared by all lanes.

A claimed message must not wait behind a long one, so a process claims no more messages than it has free threads. Each
claim needs permits, one a message. The message holds its permit until it is settled.

Lanes get equal shares. A thread that becomes free stays with its lane, because a settle can claim the lane's next
message in the same call, unless a waiting lane should have the thread (`may_chain`). So a lane of long messages gets
its share and no more, however many messages of a lane of short ones end meanwhile.

Invariants: permits in use + free permits = capacity (before the worker has booted, only the prefetch limits); free
permits go to the waiting lane that holds the fewest; a lane's minimum is not given to other lanes. The shards of a lane
(`lane/0`, `lane/1`) count as lanes of their own, and share its minimum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: If the threads cannot be divided evenly, the lanes take turns of this length with the remaining one.
TURN_SECONDS = 0.1


@dataclass(eq=False, slots=True)
class PermitRequest:
    """A lane that waits for permits."""

    lane: str
    most: int
    #: Called, without the budget's mutex, when permits were granted.
    wake: Callable[[], None]
    since: float
    granted: int = 0


class ThreadBudget:
    """Counts free threads; see the module."""

    def __init__(self, minimum: Mapping[str, int] | None = None) -> None:
        self._mutex = threading.Lock()
        self._capacity: int | None = None
        self._used: dict[str, int] = {}
        self._total = 0
        self._minimum = dict(minimum or {})
        self._requests: list[PermitRequest] = []
        #: When each lane last got permits.
        self._served_at: dict[str, float] = {}

    @property
    def capacity(self) -> int | None:
        return self._capacity

    @property
    def used(self) -> int:
        return self._total

    @property
    def waiting(self) -> list[str]:
        """The lanes that wait for permits."""
        return [request.lane for request in self._requests]

    def open(self, capacity: int) -> None:
        """A worker with `capacity` threads has booted: all permits are free."""
        with self._mutex:
            self._capacity = capacity
            self._used.clear()
            self._total = 0
            self._requests.clear()

    def _free_for(self, lane: str, prefetch: int) -> int:
        if self._capacity is None:
            return prefetch - self._used.get(lane, 0)
        free = self._capacity - self._total
        for other, minimum in self._minimum.items():
            if other != _lane_of(lane):
                free -= max(0, minimum - self._used_by(other))
        return free

    def _used_by(self, lane: str) -> int:
        return sum(number for key, number in self._used.items() if _lane_of(key) == lane)

    def _grant(self, lane: str, number: int) -> None:
        self._used[lane] = self._used.get(lane, 0) + number
        self._total += number
        self._served_at[lane] = time.monotonic()

    def acquire(self, lane: str, prefetch: int) -> int:
        """Takes all free permits at once; 0 if there are none or another lane waits."""
        with self._mutex:
            if any(request.lane != lane for request in self._requests):
                return 0
            number = max(0, self._free_for(lane, prefetch))
            if number:
                self._grant(lane, number)
            return number

    def request(self, lane: str, prefetch: int, wake: Callable[[], None]) -> PermitRequest:
        """Waits for permits. The caller ends it with `withdraw`, which returns how many were granted."""
        request = PermitRequest(lane, prefetch, wake, time.monotonic())
        with self._mutex:
            self._requests.append(request)
            granted = self._serve()
        for each in granted:
            each.wake()
        return request

    def withdraw(self, request: PermitRequest) -> int:
        """Ends a request. The caller owns the permits that it was granted."""
        with self._mutex:
            if request in self._requests:
                self._requests.remove(request)
            return request.granted

    def release(self, lane: str, number: int = 1) -> None:
        """Frees permits, and grants them to lanes that wait."""
        with self._mutex:
            self._used[lane] = max(0, self._used.get(lane, 0) - number)
            self._total = max(0, self._total - number)
            granted = self._serve() if self._requests else []
        for request in granted:
            request.wake()

    def _serve(self) -> list[PermitRequest]:
        served = []
        for request in sorted(self._requests, key=self._turn):
            # An equal share for each waiting lane; the rest is granted when they ask again.
            free = self._free_for(request.lane, request.most)
            number = -(-free // len(self._requests)) if free > 0 else 0
            if number > 0:
                self._grant(request.lane, number)
                request.granted = number
                self._requests.remove(request)
                served.append(request)
        return served

    def _turn(self, request: PermitRequest) -> tuple[int, float]:
        """Sorts requests: the lane with the fewest permits first, then the one that has waited longest."""
        return self._used.get(request.lane, 0), request.since

    def may_chain(self, lane: str) -> bool:
        """Whether the settle of a message of the lane may claim the lane's next one.

        Not while another lane waits that has no thread, or at least two fewer, or one fewer after a turn is over.
        """
        if not self._requests:
            return True
        with self._mutex:
            used = self._used.get(lane, 0)
            turn_is_over = time.monotonic() - self._served_at.get(lane, 0.0) > TURN_SECONDS
            enough = used if turn_is_over else used - 1
            others = [self._used.get(request.lane, 0) for request in self._requests if request.lane != lane]
            return all(own > 0 and own >= enough for own in others)


def _lane_of(key: str) -> str:
    return key.partition("/")[0]
