"""The consumer of a lane (or of one shard of it): Dramatiq's worker sees one for all tenant queues of the lane.

It claims messages for the free threads of the process, waits for the lane's bell, and settles through `settling`.

Invariants: no claim without permits, and each permit belongs to one message until it is settled or given back; a bell
that this process took and cannot use is signalled again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable

from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ActorNotFound

from .bell import Bell
from .claims import Claims
from .errors import ServerRefuses
from .keys import LANE_KEYS
from .message import LeasedMessage
from .notices import warn
from .server import Server
from .settling import Settlement, Settler
from .worker_state import WorkerState

#: Pause before a refusing server is asked again; doubled with each refusal, up to the second.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0


class TenantConsumer(Consumer):
    """Yields `LeasedMessage`s of a lane; see the module."""

    def __init__(
        self, server: Server, worker: WorkerState, claims: Claims, settler: Settler, prefetch: int, timeout_ms: int
    ) -> None:
        self.logger = logging.getLogger(__name__)
        self.state = settler.state
        self._worker = worker
        self._claims = claims
        self._settler = settler
        self._prefetch = prefetch
        self._timeout_seconds = timeout_ms / 1000
        self._claimed: deque[LeasedMessage] = deque()
        self._bell = Bell(server, self.state.root + LANE_KEYS["bell"][0])
        #: A claimed message was yielded since the last claim.
        self._yielded = False
        #: Refusals of the server in a row.
        self._refusals = 0
        self._closed = False
        self.state.has_work = True
        self.state.wake_consumer = self._bell.wake

    def __next__(self) -> LeasedMessage | None:
        """The next message; None after the time-out, or after a pause if the server refuses to serve.

        Raises:
            dramatiq.errors.ConnectionClosed: the server cannot be reached.
        """
        try:
            message = self._next()
        except ServerRefuses as error:
            warn(self.logger, error, "Nothing is claimed on lane %s; trying again", self.state.lane)
            self._bell.wait(_pause_seconds(self._refusals), listen=False)
            self._refusals += 1
            return None
        self._refusals = 0
        return message

    def _next(self) -> LeasedMessage | None:
        if self._claimed and self._worker.stopping:
            self._give_back_claimed()
        if self._claimed:
            return self._claimed.popleft()
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            left = deadline - time.monotonic()
            if self._yielded:
                # Releases the GIL, so that the message's thread starts before this thread's next wait.
                self._yielded = False
                time.sleep(0)
            self._settler.flush()
            if self._worker.stopping:
                # Also messages that were queued since the shutdown emptied the worker's queue.
                self._claims.give_back_unstarted()
            if self._worker.stopping or self._worker.is_paused(self.state.lane):
                self._bell.wait(min(0.05, max(left, 0.0)), listen=False)
                return None
            if not self.state.has_work:
                wait = self.state.wait_seconds()
                if wait > 0:
                    if left <= 0:
                        return None
                    if self._bell.wait(min(wait, left)) == "bell":
                        self.state.record_bell()
                    continue
            permits = self._acquire_permits(left)
            if not permits:
                return None
            claimed, undecodable = self._claims.claim(self.state, permits)
            self._claimed.extend(claimed)
            for message in undecodable:
                self._settle(Settlement(message, "bury", "undecodable", permit=False))
            if self._claimed:
                self._yielded = True
                return self._claimed.popleft()

    def _acquire_permits(self, seconds: float) -> int:
        budget, key = self._worker.budget, self.state.key
        permits = budget.acquire(key, self._prefetch)
        if permits:
            return permits
        request = budget.request(key, self._prefetch, self._bell.wake)
        if self.state.must_resignal():
            self._claims.signal_bell(self.state)
        deadline = time.monotonic() + seconds
        while not request.granted and not self._worker.stopping:
            left = deadline - time.monotonic()
            if left <= 0 or not self.state.needs_poll():
                break
            if self._bell.wait(left, listen=False) == "bell":
                self._claims.signal_bell(self.state)
        return budget.withdraw(request)

    def wake(self) -> None:
        """Ends a wait of the consumer, from any thread."""
        self._bell.wake()

    def ack(self, message: MessageProxy) -> None:
        """Settles the message as done, or as its reschedule says; the same call claims the next messages."""
        leased = self._leased(message)
        if leased is not None:
            self._settle(Settlement(leased, "retry" if leased.rescheduled else "done"))

    def nack(self, message: MessageProxy) -> None:
        """Buries the message; the same call claims the next messages."""
        leased = self._leased(message)
        if leased is None:
            return
        error = leased._exception
        if isinstance(error, ActorNotFound):
            reason = f"unknown actor: {leased.actor_name}"
        else:
            reason = f"{type(error).__name__}: {error}" if error is not None else "failed"
        self._settle(Settlement(leased, "bury", reason[:2000]))

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Gives back messages that were not started."""
        self._claims.give_back([leased for message in messages if (leased := self._leased(message)) is not None])

    def _leased(self, message: MessageProxy) -> LeasedMessage | None:
        if isinstance(message, LeasedMessage):
            return message
        self.logger.warning("Message %r did not come from a tenant queue; there is nothing to settle.", message)
        return None

    def _settle(self, settlement: Settlement) -> None:
        refusals = 0
        while True:
            try:
                self._settler.settle(settlement)
            except ServerRefuses as error:
                if self._worker.stopping:
                    raise
                # The thread waits here and keeps the lease. Dramatiq would log an error for each try.
                warn(self.logger, error, "Entry %r is not settled yet; trying again", settlement.message.entry_id)
                time.sleep(_pause_seconds(refusals))
                refusals += 1
            else:
                return

    def close(self) -> None:
        """Gives back what was claimed and not yielded, and closes the bell's connection."""
        if self._closed:
            return
        self._closed = True
        self._bell.close()
        try:
            self._settler.flush()
        finally:
            self._give_back_claimed()

    @property
    def closed(self) -> bool:
        return self._closed

    def _give_back_claimed(self) -> None:
        left, self._claimed = list(self._claimed), deque()
        self._claims.give_back(left)


def _pause_seconds(refusals: int) -> float:
    return float(min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(refusals, 10)))
