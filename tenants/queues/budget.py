"""One budget of free worker threads over all lanes of a process.

A claimed message must never wait behind a long one, so a process claims no more than it has free threads. Each claim
needs permits; a permit goes with its message until that is settled.

Threads are shared evenly: what becomes free stays with its lane, because a message that comes with the settle of the
one before costs no call of its own, unless a waiting lane should have it (`may_chain`). A lane of long messages holds
its share and no more, however many of a lane of short ones end meanwhile.

Invariants: permits out + permits free = capacity (until the worker has booted: no bound but the consumer's prefetch);
permits that become free go to the waiting lane that holds the fewest; a lane's minimum is never lent to another lane.
The shards of a lane (`lane/0`, `lane/1`) take turns as lanes do, and share its minimum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Where threads cannot be shared out evenly, a lane keeps the odd one for so long.
TURN_SECONDS = 0.1


@dataclass(eq=False, slots=True)
class Ticket:
    """A lane's standing wish for permits."""

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
        self._tickets: list[Ticket] = []
        #: When a lane was last given threads.
        self._served_at: dict[str, float] = {}

    @property
    def capacity(self) -> int | None:
        return self._capacity

    @property
    def used(self) -> int:
        return self._total

    def open(self, capacity: int) -> None:
        """A worker with `capacity` threads has booted: nothing is out."""
        with self._mutex:
            self._capacity = capacity
            self._used.clear()
            self._total = 0
            self._tickets.clear()

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
        """Permits at once, as many as are free; 0 when there are none or another lane waits already."""
        with self._mutex:
            if any(ticket.lane != lane for ticket in self._tickets):
                return 0
            number = max(0, self._free_for(lane, prefetch))
            if number:
                self._grant(lane, number)
            return number

    def queue_up(self, lane: str, prefetch: int, wake: Callable[[], None]) -> Ticket:
        """Stands in the row for permits. End it with `leave`, which tells how many were granted."""
        ticket = Ticket(lane, prefetch, wake, time.monotonic())
        with self._mutex:
            self._tickets.append(ticket)
            woken = self._serve()
        for each in woken:
            each.wake()
        return ticket

    def leave(self, ticket: Ticket) -> int:
        """Ends a wish; what it was granted is the caller's."""
        with self._mutex:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
            return ticket.granted

    def release(self, lane: str, number: int = 1) -> None:
        """Gives permits back; who waits is served."""
        with self._mutex:
            self._used[lane] = max(0, self._used.get(lane, 0) - number)
            self._total = max(0, self._total - number)
            woken = self._serve() if self._tickets else []
        for ticket in woken:
            ticket.wake()

    def _serve(self) -> list[Ticket]:
        served = []
        for ticket in sorted(self._tickets, key=self._turn):
            # Everybody in the row gets a share; the rest of it is claimed the next time.
            free = self._free_for(ticket.lane, ticket.most)
            number = -(-free // len(self._tickets)) if free > 0 else 0
            if number > 0:
                self._grant(ticket.lane, number)
                ticket.granted = number
                self._tickets.remove(ticket)
                served.append(ticket)
        return served

    def _turn(self, ticket: Ticket) -> tuple[int, float]:
        """What puts tickets in the order in which they are served."""
        return self._used.get(ticket.lane, 0), ticket.since

    def may_chain(self, lane: str) -> bool:
        """Whether a message of the lane that ends may bring the lane's next one.

        Not while another lane waits that has no thread, or at least two fewer, or one fewer for the time of a turn.
        """
        if not self._tickets:
            return True
        with self._mutex:
            used = self._used.get(lane, 0)
            had_its_turn = time.monotonic() - self._served_at.get(lane, 0.0) > TURN_SECONDS
            enough = used if had_its_turn else used - 1
            others = [self._used.get(ticket.lane, 0) for ticket in self._tickets if ticket.lane != lane]
            return all(own > 0 and own >= enough for own in others)


def _lane_of(key: str) -> str:
    return key.partition("/")[0]
