"""Calls of many threads, run some at a time by one of them.

A call that finds nobody on the way goes at once, alone. What others ask for meanwhile waits for the next way, and goes
together: so a commit, a flush to disk or a round trip is paid once for several, and nobody waits for company.

Invariants: each call is run once, by one leader, and answered once; a leader that ends hands on to the call that has
waited longest, so while calls wait one leads; of an interrupted leader's members none is left waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


#: Items that go together at most, unless the caller says otherwise.
MOST = 32


class Interrupted(Exception):
    """The thread that ran the call for others was interrupted in the middle; the call's outcome is unknown."""


class _Call(Generic[T]):
    __slots__ = ("answer", "item", "leads", "ready")

    def __init__(self, item: T) -> None:
        self.item = item
        self.leads = False
        self.answer: Any = Interrupted("the thread that ran this for others was interrupted")
        #: Released when it is answered, or shall lead.
        self.ready = threading.Lock()
        self.ready.acquire()


class Combined(Generic[T, R]):
    """`run_all` for single items, from any thread.

    Args:
        run_all: takes items, and gives an answer or an exception for each, in their order.
        turn: entered around each way, if given; what has come by then goes along.
        most: items that go together at most.
    """

    def __init__(
        self,
        run_all: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        turn: AbstractContextManager[Any] | None = None,
        most: int = MOST,
    ) -> None:
        self._run_all = run_all
        self._turn = turn or nullcontext()
        self._most = most
        self._led = False
        self._mutex = threading.Lock()
        self._waiting: list[_Call[T]] = []

    def run(self, item: T) -> R:
        """The answer for the item.

        Raises:
            Interrupted: see there. And whatever `run_all` gave for it.
        """
        call = _Call(item)
        try:
            with self._mutex:
                if self._led:
                    self._waiting.append(call)
                else:
                    self._led = call.leads = True
            if not call.leads:
                call.ready.acquire()
            if call.leads:
                self._lead(call)
        finally:
            self._leave(call)
        if isinstance(call.answer, Exception):
            raise call.answer
        answer: R = call.answer
        return answer

    def _lead(self, own: _Call[T]) -> None:
        members = [own]
        try:
            with self._turn:
                with self._mutex:
                    members += self._waiting[: self._most - 1]
                    del self._waiting[: self._most - 1]
                answers = self._run_all([call.item for call in members])
            for call, answer in zip(members, answers, strict=True):
                call.answer = answer
        finally:
            for call in members[1:]:
                call.ready.release()

    def _leave(self, call: _Call[T]) -> None:
        """Ends the call's part, also after an interrupt; a leader hands on."""
        with self._mutex:
            if call in self._waiting:
                self._waiting.remove(call)
            if not call.leads:
                return
            if self._waiting:
                following = self._waiting.pop(0)
                following.leads = True
                following.ready.release()
            else:
                self._led = False
