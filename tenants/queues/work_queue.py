"""The queue between a Dramatiq worker's consumers and its threads, with as few wake-ups and comparisons as will do.

The standard library's wakes a thread for each message that is put. A wake-up is a system call made under the
interpreter's lock, and of several short messages the first thread that wakes has often done all before the second
comes. Here one thread at a time is on its way: a woken thread that leaves messages behind wakes the next.

It is also a heap, which compares Dramatiq's items (in Python) ten times for each message of a batch. Here items of one
priority stand in a row of their own; there are as many rows as the actors have priorities.

Invariants: while messages and idle threads are there, a thread is on its way to them; no wake-up is lost to a thread
whose wait ends by time at the same moment. A thread may be interrupted anywhere (time limits, lost leases), so nothing
but the rows says what is in the queue, and taking an item is one step.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from queue import Empty
from typing import Any, Protocol

from dramatiq.broker import MessageProxy


class Item(Protocol):
    """What stands in the queue; Dramatiq's own items are such."""

    @property
    def priority(self) -> int:
        """Lower comes first."""

    @property
    def message(self) -> MessageProxy:
        """What a thread shall run."""


@dataclass(frozen=True, eq=False, slots=True)
class WorkItem:
    """A message that waits for a thread."""

    priority: int
    message: MessageProxy


class WorkQueue(queue.PriorityQueue[Any]):
    """An unbounded queue, by priority, first in first out in each; see the module."""

    def __init__(self) -> None:
        super().__init__()
        #: (priority, its items), the first priority first; a row stays when it is empty.
        self._rows: list[tuple[int, deque[Item]]] = []
        #: A locked lock for each idle thread; the latest first, because its memory is the warmest.
        self._idle: list[threading.Lock] = []
        self._one_comes = False

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item; never waits."""
        self.put_all([item])

    def put_all(self, items: Iterable[Item]) -> None:
        """Adds items, in their order; never waits."""
        with self.mutex:
            for item in items:
                self._put(item)
                self.unfinished_tasks += 1
            self._call_one()

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        """The first item.

        Raises:
            queue.Empty: there was none for `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.mutex:
            while (row := self._first_row()) is None:
                left = -1.0 if deadline is None else deadline - time.monotonic()
                if not block or (deadline is not None and left <= 0):
                    raise Empty
                try:
                    self._wait(left)
                except BaseException:
                    self._call_one()  # an interrupt: another thread must come in this one's place
                    raise
            item = row.popleft()
            self._call_one()
            return item

    def _qsize(self) -> int:
        return sum(len(row) for _, row in self._rows)

    def _put(self, item: Item) -> None:
        priority = item.priority
        for known, row in self._rows:
            if known == priority:
                row.append(item)
                return
        insort(self._rows, (priority, deque([item])), key=itemgetter(0))

    def _first_row(self) -> deque[Item] | None:
        """The row whose turn it is; None when nothing is there."""
        for _, row in self._rows:
            if row:
                return row
        return None

    def _call_one(self) -> None:
        if self._idle and not self._one_comes and self._first_row() is not None:
            self._one_comes = True
            self._idle.pop().release()

    def _wait(self, seconds: float) -> None:
        call = threading.Lock()
        call.acquire()
        self._idle.append(call)
        self.mutex.release()
        try:
            call.acquire(timeout=seconds)
        finally:
            self.mutex.acquire()
            if call in self._idle:
                self._idle.remove(call)
            else:
                # Called, though perhaps only when the time was over: the call counts as answered either way.
                self._one_comes = False
