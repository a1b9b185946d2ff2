"""The queue between a Dramatiq worker's consumers and its threads, with as few wake-ups as will do.

The standard library's wakes a thread for each message that is put. A wake-up is a system call made under the
interpreter's lock, and of several short messages the first thread that wakes has often done all before the second
comes. Here one thread at a time is on its way: a woken thread that leaves messages behind wakes the next.

Invariants: while messages and idle threads are there, a thread is on its way to them; no wake-up is lost to a thread
whose wait ends by time at the same moment.
"""

from __future__ import annotations

import queue
import threading
import time
from heapq import heappop
from queue import Empty
from typing import Any


class WorkQueue(queue.PriorityQueue[Any]):
    """An unbounded priority queue; see the module."""

    def __init__(self) -> None:
        super().__init__()
        #: A locked lock for each idle thread; the latest first, because its memory is the warmest.
        self._idle: list[threading.Lock] = []
        self._one_comes = False

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item; never waits."""
        with self.mutex:
            self._put(item)
            self.unfinished_tasks += 1
            self._call_one()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The first item.

        Raises:
            queue.Empty: there was none for `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.mutex:
            while not self.queue:
                left = -1.0 if deadline is None else deadline - time.monotonic()
                if not block or (deadline is not None and left <= 0):
                    raise Empty
                try:
                    self._wait(left)
                except BaseException:
                    self._call_one()  # an interrupt: another thread must come in this one's place
                    raise
            item = heappop(self.queue)
            self._call_one()
            return item

    def _call_one(self) -> None:
        if self._idle and self.queue and not self._one_comes:
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
