"""Settles of a lane, many in one round trip.

The thread that settles while no other does becomes the **leader**: it goes to the server, and what other threads
settle meanwhile it takes along on its next way, so a busy process makes one round trip for many messages and an idle
one waits for nobody. Once half of the worker's threads have settled and no answer has come, a second thread leads as
well: otherwise most threads would stand idle while the server works, and the server while they do. The others return
at once; their messages stay leased, and are extended, until the answer came.

Invariants: whatever was handed in is sent by somebody: by a leader, which leads until nothing is left, or after a
failure by whoever settles or looks for work next; a batch keeps its request number and its members until it is
answered, so that sending it again settles nothing twice; no two unanswered batches share a channel.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dramatiq.errors import BrokerConnectionError

from .entry import milliseconds
from .lua import script
from .message import LeasedMessage
from .server import Argument

if TYPE_CHECKING:
    from .broker import TenantBroker
    from .consumer import LaneShard, TenantConsumer

_SETTLE = script("settle")
#: Messages that one call settles.
_MOST = 64
#: Round trips after which a leader lets another thread lead, so that its own message comes to an end.
_ROUNDS = 50
_MOST_LEADERS = 2


@dataclass(eq=False, slots=True)
class Settlement:
    """How one message ended."""

    message: LeasedMessage
    outcome: str
    reason: str
    #: Whether the message holds a permit: a free thread that its end makes available.
    permit: bool

    @property
    def is_done(self) -> bool:
        return self.outcome == "done"

    def arguments(self) -> tuple[Argument, ...]:
        """As the script takes them, which are fewer for a message that is done."""
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
    """Settlements that are sent together, always under the same number."""

    consumer: TenantConsumer
    #: Those that are done first; the answer names them by their places.
    settlements: Sequence[Settlement]
    request: int
    channel: int
    #: It was sent before, and no answer came.
    tried: bool = False
    answered: bool = False
    #: The leader that has it; None while it waits for one, and once it was answered.
    leader: object = None
    arguments: list[Argument] = field(default_factory=list)


class Settler:
    """The settles of one lane in this process."""

    def __init__(self, broker: TenantBroker, shard: LaneShard) -> None:
        self.logger = logging.getLogger(__name__)
        self._broker = broker
        self._shard = shard
        self._mutex = threading.Lock()
        self._handed_in: list[tuple[TenantConsumer, Settlement]] = []
        self._unanswered: deque[Batch] = deque()
        self._leaders: set[object] = set()
        self._channels: list[int] = []
        self._channels_made = 0

    def settle(self, consumer: TenantConsumer, settlement: Settlement) -> None:
        """Settles it now, or leaves it to the thread that is on its way to the server.

        Raises:
            dramatiq.errors.ConnectionClosed: the server did not answer. The settlement is kept; call again.
        """
        message = settlement.message
        with message.ending, self._mutex:
            if not message.settling:
                message.settling = True
                self._handed_in.append((consumer, settlement))
        self._lead()

    def flush(self) -> None:
        """Sends what a failure has left behind; nothing while a thread leads.

        Raises: as `settle`.
        """
        if self._handed_in or self._unanswered:
            self._lead()

    def take_channel(self) -> int:
        """A channel for a claim, until `leave_channel`."""
        with self._mutex:
            return self._take_channel()

    def leave_channel(self, channel: int) -> None:
        with self._mutex:
            self._channels.append(channel)

    def _lead(self) -> None:
        """Sends batches until nothing is left, unless other threads do."""
        # A leader that finds nothing left leaves under the mutex with which it looked. So whoever has handed something
        # in and finds one now needs no mutex to know that it is seen.
        if not self._needs_leader():
            return
        me = object()
        batch: Batch | None = None
        try:
            with self._mutex:
                if not self._needs_leader():
                    return
                self._leaders.add(me)
            for turn in range(_ROUNDS):
                with self._mutex:
                    batch = self._next_batch()
                    if batch is not None:
                        batch.leader = me
                    if batch is None or turn == _ROUNDS - 1:
                        self._leaders.discard(me)
                if batch is None:
                    return
                self._send(batch)
        finally:
            # Also after an interrupt, wherever it struck: with nobody to lead, nothing would be settled ever again, and
            # a batch that nobody has would be extended for ever.
            if me in self._leaders or (batch is not None and batch.leader is me):
                with self._mutex:
                    self._leaders.discard(me)
                    if batch is not None and batch.leader is me:
                        self._let_go(batch)

    def _needs_leader(self) -> bool:
        if not self._leaders:
            return True
        threads = self._broker.budget.capacity
        return len(self._leaders) < _MOST_LEADERS and threads is not None and 2 * len(self._handed_in) >= threads

    def _next_batch(self) -> Batch | None:
        if self._unanswered:
            return self._unanswered.popleft()
        if not self._handed_in:
            return None
        members, self._handed_in = self._handed_in[:_MOST], self._handed_in[_MOST:]
        channel = self._take_channel()
        settlements = sorted((settlement for _, settlement in members), key=lambda each: not each.is_done)
        return Batch(members[0][0], settlements, self._broker.keeper.open_request(), channel)

    def _take_channel(self) -> int:
        if self._channels:
            return self._channels.pop()
        self._channels_made += 1
        return self._channels_made - 1

    def _send(self, batch: Batch) -> None:
        broker, keeper, shard = self._broker, self._broker.keeper, self._shard
        permits = sum(each.permit for each in batch.settlements)
        threads = sum(each.permit and each.message.thread_id is not None for each in batch.settlements)
        count = threads if threads and broker.may_chain(shard) else 0
        if not batch.arguments:
            batch.arguments.append(sum(each.is_done for each in batch.settlements))
            for each in batch.settlements:
                batch.arguments.extend(each.arguments())
        sent_at = time.monotonic()
        try:
            if batch.tried:
                keeper.open_request(batch.request)
            answer = self._ask(batch, count)
            if count and shard.note(answer[0], answer[1], sent_at):
                batch.consumer.wake()
            chained = batch.consumer.receive(answer[2], answer[3], sent_at) if answer[2] else []
            batch.answered = True
        except BrokerConnectionError:
            raise  # it is sent again, under the same number
        except Exception:
            # The server refused it: the leases are no longer extended, so that they can expire.
            batch.answered = True
            self._forget(batch, permits)
            raise
        finally:
            # Also when an interrupt ended the wait for the answer: others' messages are in the batch.
            keeper.close_request(batch.request)
            batch.tried = True
            with self._mutex:
                self._let_go(batch)
        self._end(batch, answer[5])
        if permits > len(chained):
            broker.budget.release(shard.key, permits - len(chained))
        if chained:
            broker.hand_on(batch.consumer, chained)

    def _let_go(self, batch: Batch) -> None:
        """Its leader is done with it; called with the mutex."""
        batch.leader = None
        if batch.answered:
            self._channels.append(batch.channel)
        else:
            self._unanswered.append(batch)

    def _ask(self, batch: Batch, count: int) -> Any:
        try:
            return self._call(batch, count, int(batch.tried))
        except BrokerConnectionError:
            return self._call(batch, count, 1)

    def _call(self, batch: Batch, count: int, again: int) -> Any:
        keeper = self._broker.keeper
        return self._broker.server.run(
            _SETTLE,
            self._shard.root,
            keeper.worker,
            batch.request,
            again,
            count,
            keeper.lease_ms,
            batch.channel,
            *batch.arguments,
        )

    def _forget(self, batch: Batch, permits: int) -> None:
        self.logger.error("Not settled, and left to expire: %r.", [each.message.entry_id for each in batch.settlements])
        self._broker.keeper.remove_all([each.message for each in batch.settlements])
        self._broker.budget.release(self._shard.key, permits)

    def _end(self, batch: Batch, lost: Sequence[int]) -> None:
        self._broker.keeper.remove_all([each.message for each in batch.settlements])
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
