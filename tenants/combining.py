"""Calls of many threads, run some at a time by one of them.

A call that finds nobody on the way goes at once, alone. What others ask for meanwhile waits for the next way, and goes
together: so a commit, a flush to disk or a round trip is paid once for several, and nobody waits for company. While
calls wait, one thread that has no call of its own leads way after way; handing that on to a waiting thread took as long
as a third of a way, because a thread must be woken for it. Those who were answered go on in the midst of the next way,
when its leader has the interpreter's lock no longer: at once, they would all ask for that lock together with it.

Invariants: each call is run once, by one leader, and answered once; while calls wait one leads, and always the one that
has waited longest is in the next; nobody is held up that was answered while the leader waits for anything but its own
way (a connection that is lost at that moment aside); of an interrupted leader's members none is left waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


#: Items that go together at most, unless the caller says otherwise.
MOST = 32
#: Seconds after which a leading thread without work ends.
IDLE_SECONDS = 5.0


def nothing() -> None:
    """For who has nobody to let go."""


class Turn(Protocol):
    """What is entered around each way."""

    def enter(self, before_waiting: Callable[[], None]) -> None: ...

    def leave(self) -> None: ...


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
        run_all: takes items, and gives an answer or an exception for each, in their order. It calls its second
            argument where it begins to wait for long without the interpreter's lock, or before: those whom the way
            before has answered go on then.
        kind_of: only items with the same (by identity) go together; without it all do.
        turn: entered around each way, if given; what has come by then goes along.
        most: items that go together at most.
    """

    def __init__(
        self,
        run_all: Callable[[Sequence[T], Callable[[], None]], Sequence[R | Exception]],
        *,
        kind_of: Callable[[T], object] | None = None,
        turn: Turn | None = None,
        most: int = MOST,
    ) -> None:
        self._run_all = run_all
        self._kind_of = kind_of
        self._turn = turn
        self._most = most
        self._mutex = threading.Lock()
        #: Somebody leads, or is called to.
        self._led = False
        self._waiting: list[_Call[T]] = []
        #: Leads for those who wait, while there are any.
        self._thread: threading.Thread | None = None
        #: Released when the thread shall lead.
        self._called = threading.Lock()
        self._called.acquire()

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
                self._lead([call], nothing)
        finally:
            self._leave(call)
        if isinstance(call.answer, Exception):
            raise call.answer
        answer: R = call.answer
        return answer

    def _lead(self, members: list[_Call[T]], let_go: Callable[[], None]) -> None:
        """One way, for these and those who wait. Those who came along go on at once, or are left in `members`."""
        own = len(members)
        done = False
        try:
            self._take_along(members)
            if self._turn is not None:
                self._turn.enter(let_go)
            try:
                self._take_along(members)
                # None are left when all who waited were interrupted.
                answers = self._run_all([call.item for call in members], let_go) if members else []
            finally:
                if self._turn is not None:
                    self._turn.leave()
            for call, answer in zip(members, answers, strict=True):
                call.answer = answer
            done = True
        finally:
            if own or not done:
                try:
                    _release(members[own:])
                except BaseException:  # an interrupt, which comes once
                    _release(members[own:])
                    raise

    def _take_along(self, members: list[_Call[T]]) -> None:
        with self._mutex:
            if not self._waiting:
                return
            kind_of, going = self._kind_of, self._waiting
            if kind_of is not None:
                kind = kind_of((members or going)[0].item)
                going = [call for call in going if kind_of(call.item) is kind]
            going = going[: self._most - len(members)]
            staying = [call for call in self._waiting if call not in going]
            # Nothing can interrupt between these two, so that no call is in both lists, or in none.
            members += going
            self._waiting = staying

    def _leave(self, call: _Call[T]) -> None:
        """Ends the call's part, also after an interrupt; a leader hands on."""
        try:
            self._step_down(call)
        except BaseException:  # an interrupt, which comes once
            self._step_down(call)
            raise

    def _step_down(self, call: _Call[T]) -> None:
        with self._mutex:
            if call in self._waiting:
                self._waiting.remove(call)
            if call.leads:
                self._hand_on(call)

    def _hand_on(self, leader: _Call[T]) -> None:
        leader.leads = False
        if not self._waiting:
            self._led = False
        elif self._thread is not None:
            self._called.release()
        else:
            thread = self._thread = threading.Thread(target=self._lead_others, name="leads-calls", daemon=True)
            try:
                thread.start()
            except BaseException as error:
                if thread.ident is None:  # the system gives no more threads, or the interpreter is ending
                    self._thread = None
                    following = self._waiting.pop(0)
                    following.leads = True
                    following.ready.release()
                if not isinstance(error, RuntimeError):
                    raise

    def _lead_others(self) -> None:
        answered: list[_Call[T]] = []

        def let_go() -> None:
            _release(answered)
            answered.clear()

        while True:
            members: list[_Call[T]] = []
            try:
                self._lead(members, let_go)
            except BaseException:
                # Whatever one of them raised is no reason to end this thread: its members are told that their outcome
                # is unknown, and the others shall not wait for ever.
                log.exception("calls that went together failed, and their outcome is unknown")
                members = []
            let_go()
            answered += members
            with self._mutex:
                if self._waiting:
                    continue
                self._led = False
            let_go()
            if not self._called.acquire(timeout=IDLE_SECONDS):
                with self._mutex:
                    if not self._called.acquire(blocking=False):  # nobody has called at the last moment
                        self._thread = None
                        return


def _release(calls: Sequence[_Call[Any]]) -> None:
    for call in calls:
        if call.ready.locked():
            call.ready.release()
