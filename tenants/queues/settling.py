"""Settles of a lane, many in one round trip.

A thread that settles while no other sends becomes a **sender**: it sends the pending settlements of all threads, batch
after batch, until none is left. The other threads return at once; their messages stay leased until the answer came. So
a busy process makes one round trip for many messages, and an idle one never waits. Once half of the worker's threads
have settlements pending, a second thread becomes a sender too: otherwise most threads would wait for the server, and
then the server for them.

Invariants: every settlement is sent: by a sender, or after a failure by the next thread that settles or looks for work;
a batch keeps its request number and its members until it is answered, so that sending it again settles nothing twice;
no two unanswered batches share a channel. A thread can be interrupted anywhere (time limits, lost leases), also while
it sends for others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dramatiq.errors import BrokerConnectionError

from .claims import Claims, with_one_retry
from .entry import milliseconds
from .lane_state import LaneState
from .lua import script
from .message import LeasedMessage
from .server import Argument, Server
from .worker_state import WorkerState

_SETTLE = script("settle")
#: Settlements in one call.
_MAX_BATCH_SIZE = 64
#: After so many round trips a sender returns, so that its own message ends; another thread becomes the sender.
_MAX_BATCHES = 50
_MAX_SENDERS = 2


@dataclass(eq=False, slots=True)
class Settlement:
    """How one message ended."""

    message: LeasedMessage
    #: `done`, `retry` or `bury`.
    outcome: str
    reason: str = ""
    #: Whether the message holds a permit: a thread that becomes free when the message is settled.
    permit: bool = True

    @property
    def is_done(self) -> bool:
        return self.outcome == "done"

    def arguments(self) -> tuple[Argument, ...]:
        """As the script takes them; fewer for a message that is done."""
        message = self.message
        lease = (message.token, message.slot, message.epoch)
        if self.is_done:
            return lease
        delay_ms, payload = 0, b""
        if self.outcome == "retry" and message.rescheduled is not None:
            delay, new = message.rescheduled
            delay_ms = milliseconds(delay)
            payload = new.encode() if new is not None else b""
        return (*lease, self.outcome, delay_ms, payload, self.reason)


@dataclass(eq=False, slots=True)
class Batch:
    """Settlements that are sent together, always under the same request number."""

    #: Those that are done first; the answer names them by position.
    settlements: Sequence[Settlement]
    request: int
    channel: int
    #: It was sent before, and no answer came.
    was_sent: bool = False
    answered: bool = False
    #: The thread that sends it now.
    sender: object = None
    arguments: list[Argument] = field(default_factory=list)


class Settler:
    """The settles of one lane in this process."""

    def __init__(self, server: Server, worker: WorkerState, claims: Claims, state: LaneState) -> None:
        self.logger = logging.getLogger(__name__)
        self.state = state
        self._server = server
        self._worker = worker
        self._claims = claims
        self._mutex = threading.Lock()
        self._pending: list[Settlement] = []
        self._unanswered: deque[Batch] = deque()
        self._senders: set[object] = set()

    def settle(self, settlement: Settlement) -> None:
        """Sends the settlement, or leaves it to the thread that sends now.

        Raises:
            dramatiq.errors.ConnectionClosed: the server did not answer. The settlement is kept; call again.
        """
        message = settlement.message
        with message.ending, self._mutex:
            if not message.settling:
                message.settling = True
                self._pending.append(settlement)
        self._send_pending()

    def flush(self) -> None:
        """Sends what a failure has left unsent, unless another thread sends now.

        Raises: as `settle`.
        """
        if self._pending or self._unanswered:
            self._send_pending()

    def _send_pending(self) -> None:
        """Sends batches until none is left, unless enough other threads do."""
        # A sender that finds nothing left gives up its role under the mutex with which it looked. So a thread that has
        # added a settlement and sees a sender needs no mutex to know that the sender will find it.
        if not self._needs_sender():
            return
        me = object()
        batch: Batch | None = None
        try:
            with self._mutex:
                if not self._needs_sender():
                    return
                self._senders.add(me)
            for turn in range(_MAX_BATCHES):
                with self._mutex:
                    batch = self._next_batch()
                    if batch is not None:
                        batch.sender = me
                    if batch is None or turn == _MAX_BATCHES - 1:
                        self._senders.discard(me)
                if batch is None:
                    return
                self._send(batch)
        finally:
            # An interrupt can strike at any point above. Without this, nothing of the lane would be settled again, or
            # the leases of a batch that no thread holds would be extended without end.
            if me in self._senders or (batch is not None and batch.sender is me):
                with self._mutex:
                    self._senders.discard(me)
                    if batch is not None and batch.sender is me:
                        self._release(batch)

    def _needs_sender(self) -> bool:
        if not self._senders:
            return True
        threads = self._worker.budget.capacity
        return len(self._senders) < _MAX_SENDERS and threads is not None and 2 * len(self._pending) >= threads

    def _next_batch(self) -> Batch | None:
        if self._unanswered:
            return self._unanswered.popleft()
        if not self._pending:
            return None
        members = sorted(self._pending[:_MAX_BATCH_SIZE], key=lambda each: not each.is_done)
        batch = Batch(members, self._worker.leases.open_request(), self.state.take_channel())
        # Last, so that an interrupt in the lines above loses no settlement.
        self._pending = self._pending[_MAX_BATCH_SIZE:]
        return batch

    def _send(self, batch: Batch) -> None:
        worker, state = self._worker, self.state
        permits = sum(each.permit for each in batch.settlements)
        threads = sum(each.permit and each.message.thread_id is not None for each in batch.settlements)
        count = threads if threads and worker.may_chain(state) else 0
        chained: list[LeasedMessage] = []
        undecodable: list[LeasedMessage] = []
        sent_at = time.monotonic()
        try:
            answer = self._call(batch, count)
            if count and state.record_answer(answer[0], answer[1], sent_at):
                state.wake_consumer()
            if answer[2]:
                chained, undecodable = self._claims.receive(state, answer[2], answer[3], sent_at)
            batch.answered = True
        except BrokerConnectionError:
            raise  # the batch is sent again, under the same number
        except Exception:
            # The server refused it for good: the leases are no longer extended, so that they expire.
            batch.answered = True
            self.logger.error(
                "Not settled, and left to expire: %r.", [each.message.entry_id for each in batch.settlements]
            )
            worker.leases.remove_all(each.message for each in batch.settlements)
            worker.budget.release(state.key, permits)
            raise
        finally:
            # Also after an interrupt while it waited for the answer, because the batch has other threads' messages.
            worker.leases.close_request(batch.request)
            batch.was_sent = True
            with self._mutex:
                self._release(batch)
        self._end(batch, answer[5])
        if permits > len(chained):
            worker.budget.release(state.key, permits - len(chained))
        if chained:
            self._start(chained)
        for message in undecodable:
            self.settle(Settlement(message, "bury", "undecodable", permit=False))

    def _release(self, batch: Batch) -> None:
        """Its sender is finished with it. The caller holds the mutex."""
        batch.sender = None
        if batch.answered:
            self.state.return_channel(batch.channel)
        else:
            self._unanswered.append(batch)

    def _call(self, batch: Batch, count: int) -> Any:
        leases = self._worker.leases
        if batch.was_sent:
            leases.open_request(batch.request)
        if not batch.arguments:
            done = sum(each.is_done for each in batch.settlements)
            batch.arguments = [done, *(part for each in batch.settlements for part in each.arguments())]
        return with_one_retry(
            lambda again: self._server.run(
                _SETTLE,
                self.state.root,
                leases.worker,
                batch.request,
                again,
                count,
                leases.lease_ms,
                batch.channel,
                *batch.arguments,
            ),
            int(batch.was_sent),
        )

    def _start(self, messages: list[LeasedMessage]) -> None:
        if self._worker.stopping:
            self._claims.give_back(messages)
        else:
            self._worker.queue_messages(self.state.lane, messages)

    def _end(self, batch: Batch, lost: Sequence[int]) -> None:
        self._worker.leases.remove_all(each.message for each in batch.settlements)
        for position in lost:
            message = batch.settlements[position].message
            if not message.is_lost:
                message.lease_lost.set()
                self.logger.warning(
                    "Entry %r of account %r was settled too late: its lease (epoch %d) had been lost.",
                    message.entry_id,
                    message.account,
                    message.epoch,
                )
