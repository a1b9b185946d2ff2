"""The queue between a Dramatiq worker's consumers and its threads. It replaces `queue.PriorityQueue`, which costs more.

`queue.PriorityQueue` wakes one thread for each item. Each wake-up is a system call that holds the GIL, and the first
thread that wakes has often run all short messages before the second one starts. This queue wakes one thread at a time:
a woken thread that leaves items behind wakes the next thread.

`queue.PriorityQueue` is also a heap, which compares Dramatiq's items in Python about ten times a message. This queue
has one FIFO list for each priority; there are few, because actors have few priorities.

Invariants: while there are items and idle threads, one thread is being woken; a wake-up that arrives just as the
thread's wait times out is passed on. A thread can be interrupted anywhere (time limits, lost leases), so the lists
alone say what is in the queue, and an item is taken in one step.
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
    """An item of the queue. Dramatiq's own items have this form too."""

    @property
    def priority(self) -> int:
        """Lower comes first."""

    @property
    def message(self) -> MessageProxy:
        """The message to run."""


@dataclass(frozen=True, eq=False, slots=True)
class WorkItem:
    """A message that waits for a thread."""

    priority: int
    message: MessageProxy


class WorkQueue(queue.PriorityQueue[Any]):
    """An unbounded queue: lowest priority first, FIFO within a priority; see the module."""

    def __init__(self) -> None:
        super().__init__()
        #: (priority, its items) in order of priority; empty lists stay.
        self._lists: list[tuple[int, deque[Item]]] = []
        #: One locked lock for each idle thread. The last is woken first: its memory is still in the CPU's cache.
        self._idle: list[threading.Lock] = []
        self._waking = False

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item; never waits."""
        self.put_all([item])

    def put_all(self, items: Iterable[Item]) -> None:
        """Adds items, in their order; never waits."""
        with self.mutex:
            for item in items:
                self._put(item)
                self.unfinished_tasks += 1
            self._wake_one()

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        """The first item.

        Raises:
            queue.Empty: there was none for `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.mutex:
            while (items := self._first_list()) is None:
                left = -1.0 if deadline is None else deadline - time.monotonic()
                if not block or (deadline is not None and left <= 0):
                    raise Empty
                try:
                    self._wait(left)
                except BaseException:
                    self._wake_one()  # this thread is interrupted: wake another one instead
                    raise
            item = items.popleft()
            self._wake_one()
            return item

    def _qsize(self) -> int:
        return sum(len(items) for _, items in self._lists)

    def _put(self, item: Item) -> None:
        priority = item.priority
        for known, items in self._lists:
            if known == priority:
                items.append(item)
                return
        insort(self._lists, (priority, deque([item])), key=itemgetter(0))

    def _first_list(self) -> deque[Item] | None:
        """The first list that has items; None if the queue is empty."""
        for _, items in self._lists:
            if items:
                return items
        return None

    def _wake_one(self) -> None:
        if self._idle and not self._waking and self._first_list() is not None:
            self._waking = True
            self._idle.pop().release()

    def _wait(self, seconds: float) -> None:
        woken = threading.Lock()
        woken.acquire()
        self._idle.append(woken)
        self.mutex.release()
        try:
            woken.acquire(timeout=seconds)
        finally:
            self.mutex.acquire()
            if woken in self._idle:
                self._idle.remove(woken)
            else:
                # This thread was woken, perhaps at the moment of its time-out. Either way it is awake now.
                self._waking = False
