"""The consumer of a lane: one for all its tenant queues, as the Dramatiq worker sees it.

It claims for the free threads of the process, waits on the lane's bell, and hands settles to `settling.py`, which
brings the lane's next messages with them and hands those straight on to the worker's queue.

Invariants: no claim without permits, and each permit goes with one message until it is settled or given back; a bell
that cannot be used is rung again; claim and settle are sent again only under the number of their first try.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ActorNotFound, BrokerConnectionError, DecodeError

from .bell import Bell
from .entry import milliseconds
from .errors import ServerRefuses
from .lua import script
from .message import LeasedMessage
from .notices import warn
from .settling import Settlement, Settler

if TYPE_CHECKING:
    from .broker import TenantBroker

_CLAIM = script("claim")
_GIVE_BACK = script("give_back")
_RESCHEDULE = script("reschedule")
_RING = script("ring")

#: Without a bell the lane is looked at this often: it rescues, and mends a bell that died with its taker.
IDLE_SECONDS = 1.0
#: A server that refuses is asked again after so long, doubled with each refusal up to the second.
_LEAST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0
#: By less than this nobody is woken for what is due: the server's answers count whole ms.
SOONER_SECONDS = 0.005


class LaneShard:
    """What this process knows of a lane (or of one shard of it), shared by its consumer and its settling threads.

    Answers of calls that were under way together come in any order. So what is known is the answer of the call that was
    sent last; one that was sent earlier only adds to it, as it would else hide what is to be started soon.
    """

    __slots__ = (
        "_bell_taken_at",
        "_known_since",
        "_mutex",
        "_waits_until",
        "key",
        "lane",
        "look_at",
        "looked_at",
        "more",
        "root",
        "settler",
        "shard",
    )

    def __init__(self, broker: TenantBroker, lane: str, shard: int, root: str) -> None:
        self.lane = lane
        self.shard = shard
        #: Names it where threads are shared out: shards of a lane take turns as lanes do.
        self.key = lane if broker.keys.shards == 1 else f"{lane}/{shard}"
        self.root = root
        self.settler = Settler(broker, self)
        #: Something was left to start when the lane was looked at last.
        self.more = True
        self.looked_at = 0.0
        #: Monotonic time at which it should be looked at again, from the server's timers.
        self.look_at: float | None = None
        #: When the call was sent, or the bell heard, that told it.
        self._known_since = 0.0
        #: Until when the consumer waits for the bell, as far as it knew when it began to.
        self._waits_until = 0.0
        #: When the bell was taken; None once a script was called after it, which leaves it to others if there is need.
        self._bell_taken_at: float | None = None
        self._mutex = threading.Lock()

    def note(self, left: int, next_ms: int, sent_at: float) -> bool:
        """What a claim or settle told that was sent at that monotonic time.

        Gives back whether the consumer must be woken, because it waits for longer than it should now.
        """
        now = time.monotonic()
        look_at = now + next_ms / 1000 if next_ms >= 0 else None
        with self._mutex:
            self.looked_at = now
            if self._bell_taken_at is not None and sent_at >= self._bell_taken_at:
                self._bell_taken_at = None
            if sent_at >= self._known_since:
                self._known_since, self.more, self.look_at = sent_at, left > 0, look_at
            else:
                self.more = self.more or left > 0
                if look_at is not None and (self.look_at is None or look_at < self.look_at):
                    self.look_at = look_at
            if look_at is None or look_at > self._waits_until - SOONER_SECONDS:
                return False
            self._waits_until = 0.0
            return True

    def note_bell(self) -> None:
        """The bell has rung: whatever was asked before, something may be started."""
        with self._mutex:
            self._known_since = self._bell_taken_at = time.monotonic()
            self.more = True

    def owes_bell(self) -> bool:
        """Whether the bell was taken and nobody has looked since; it is owed once."""
        with self._mutex:
            owed, self._bell_taken_at = self._bell_taken_at is not None, None
            return owed

    def wait_seconds(self) -> float:
        """How long to wait for the bell at most; the caller does so."""
        with self._mutex:
            self._waits_until = at = self._next_look()
            return max(0.0, at - time.monotonic())

    def wants_look(self) -> bool:
        """Whether something may be started, or it is time to look whether it may."""
        with self._mutex:
            return self.more or self._next_look() <= time.monotonic()

    def _next_look(self) -> float:
        at = self.looked_at + IDLE_SECONDS
        return at if self.look_at is None else min(at, self.look_at)


class TenantConsumer(Consumer):
    """Yields `LeasedMessage`s of a lane; see the module."""

    def __init__(self, broker: TenantBroker, shard: LaneShard, prefetch: int, timeout_ms: int) -> None:
        self.logger = logging.getLogger(__name__)
        self.broker = broker
        self.shard = shard
        self.prefetch = prefetch
        self._timeout_seconds = timeout_ms / 1000
        self._claimed: deque[LeasedMessage] = deque()
        self._bell = Bell(broker.server, shard.root + ":bell")
        #: A message that was claimed has been yielded since the last look at the lane.
        self._handed_on = False
        #: How often the server has refused to serve, one time after the other.
        self._refusals = 0
        self._closed = False
        shard.more = True

    def __next__(self) -> LeasedMessage | None:
        """The next message; None once the time-out is over, or after a pause where the server refuses to serve.

        Raises:
            dramatiq.errors.ConnectionClosed: the server cannot be reached.
        """
        try:
            message = self._next()
        except ServerRefuses as error:
            warn(self.logger, error, "Nothing is claimed on lane %s; trying again", self.shard.lane)
            self._bell.wait(self._pause_seconds(), listen=False)
            return None
        self._refusals = 0
        return message

    def _pause_seconds(self) -> float:
        self._refusals += 1
        return min(_LONGEST_PAUSE_SECONDS, _LEAST_PAUSE_SECONDS * 2.0 ** min(self._refusals - 1, 10))

    def _next(self) -> LeasedMessage | None:
        if self._claimed and self.broker.stopping:
            self._give_back_claimed()
        if self._claimed:
            return self._claimed.popleft()
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            left = deadline - time.monotonic()
            if self._handed_on:
                # The thread that shall run it needs the interpreter, which this one would keep until its next wait.
                self._handed_on = False
                time.sleep(0)
            self.shard.settler.flush()
            if self.broker.stopping:
                # What was handed to the worker between its last look at the queue and now goes back as well.
                self.broker.give_back_unstarted()
            if self.broker.stopping or self.broker.is_paused(self.shard.lane):
                self._bell.wait(min(0.05, max(left, 0.0)), listen=False)
                return None
            if not self.shard.more:
                wait = self.shard.wait_seconds()
                if wait > 0:
                    if left <= 0:
                        return None
                    self._listen(min(wait, left))
                    continue
            permits = self._permits(left)
            if not permits:
                return None
            self._claim(permits)
            if self._claimed:
                self._handed_on = True
                return self._claimed.popleft()

    def wake(self) -> None:
        """Ends a wait that is on, from any thread."""
        self._bell.wake()

    def _listen(self, seconds: float) -> None:
        if self._bell.wait(seconds) == "bell":
            self.shard.note_bell()

    def _permits(self, seconds: float) -> int:
        budget, lane = self.broker.budget, self.shard.key
        permits = budget.acquire(lane, self.prefetch)
        if permits:
            return permits
        ticket = budget.queue_up(lane, self.prefetch, self._bell.wake)
        if self.shard.owes_bell():
            # It is for others, who may be waiting for it: this process cannot use it now.
            self._ring_again()
        deadline = time.monotonic() + seconds
        while not ticket.granted and not self.broker.stopping:
            left = deadline - time.monotonic()
            if left <= 0 or not self.shard.wants_look():
                break
            if self._bell.wait(left, listen=False) == "bell":
                self._ring_again()
        return budget.leave(ticket)

    def _ring_again(self) -> None:
        try:
            self.broker.server.run(_RING, self.shard.root)
        except BrokerConnectionError as error:
            # Whoever waits for it looks by itself within a second.
            self.logger.debug("Could not ring again: %s", error)

    def _claim(self, permits: int) -> None:
        sent_at = time.monotonic()
        keeper = self.broker.keeper
        taken = 0
        number = keeper.open_request()
        channel = self.shard.settler.take_channel()
        try:
            answer = self._twice(
                lambda again: self.broker.server.run(
                    _CLAIM, self.shard.root, keeper.worker, number, again, permits, keeper.lease_ms, channel
                )
            )
            self.shard.note(answer[0], answer[1], sent_at)
            messages = self.receive(answer[2], answer[3], sent_at)
            taken = len(messages)
            self._claimed.extend(messages)
        finally:
            self.shard.settler.leave_channel(channel)
            keeper.close_request(number)
            if taken < permits:
                self.broker.budget.release(self.shard.key, permits - taken)

    def _twice(self, send: Callable[[int], Any]) -> Any:
        """A call, once more under the same number when its answer was lost."""
        try:
            return send(0)
        except BrokerConnectionError:
            return send(1)

    def receive(self, claimed: list[bytes], server_ms: int, sent_at: float) -> list[LeasedMessage]:
        """The messages of a claim's or settle's answer. One that cannot be decoded is buried."""
        messages: list[LeasedMessage] = []
        undecodable: list[LeasedMessage] = []
        parts = iter(claimed)
        for raw_token, slot, epoch, entry_id, stored in zip(parts, parts, parts, parts, parts, strict=True):
            _, added, deliveries, payload = stored.split(b":", 3)
            found = messages
            try:
                message = Message.decode(payload)
            except DecodeError as error:
                self.logger.error("Burying entry %r, which cannot be decoded.", entry_id, exc_info=error)
                found = undecodable
                message = Message(self.shard.lane, "undecodable", (), {}, {}, message_id=entry_id.decode())
            found.append(
                LeasedMessage(
                    message,
                    consumer=self,
                    shard=self.shard,
                    token=raw_token,
                    entry_id=entry_id.decode(),
                    slot=int(slot),
                    epoch=int(epoch),
                    deliveries=int(deliveries),
                    waited_seconds=max(0, server_ms - int(added)) / 1000,
                    leased_at=sent_at,
                )
            )
        self.broker.keeper.add_all([*messages, *undecodable])
        for leased in undecodable:
            self._settle(leased, "bury", "undecodable", permit=False)
        return messages

    def ack(self, message: MessageProxy) -> None:
        """Settles: done, or as its reschedule says; chains the next claim."""
        leased = self._own(message)
        if leased is not None:
            self._settle(leased, "retry" if leased.rescheduled else "done", "")

    def nack(self, message: MessageProxy) -> None:
        """Buries the message; chains the next claim."""
        leased = self._own(message)
        if leased is None:
            return
        error = leased._exception
        if isinstance(error, ActorNotFound):
            reason = f"unknown actor: {leased.actor_name}"
        else:
            reason = f"{type(error).__name__}: {error}" if error is not None else "failed"
        self._settle(leased, "bury", reason[:2000])

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Gives back what was not started."""
        self.give_back([leased for message in messages if (leased := self._own(message)) is not None])

    def give_back(self, messages: list[LeasedMessage]) -> None:
        """Ends leases whose messages never started; they wait again where they stood."""
        if not messages:
            return
        for message in messages:
            message.settling = True
        named = [part for each in messages for part in (each.token, each.slot, each.epoch)]
        try:
            self._twice(lambda _: self.broker.server.run(_GIVE_BACK, self.shard.root, *named))
        finally:
            self.broker.keeper.remove_all(messages)
            self.broker.budget.release(self.shard.key, len(messages))

    def record_reschedule(self, message: LeasedMessage, delay_seconds: float, new: Message[Any] | None) -> bool:
        """Tells the server of a reschedule, for the case that this process does not live to settle.

        Gives back False when the server says that the lease is lost.
        """
        payload = new.encode() if new is not None else b""
        try:
            recorded = self._twice(
                lambda _: self.broker.server.run(
                    _RESCHEDULE,
                    self.shard.root,
                    message.token,
                    message.slot,
                    message.epoch,
                    milliseconds(delay_seconds),
                    payload,
                )
            )
        except BrokerConnectionError as error:
            warn(self.logger, error, "Reschedule of entry %r goes with its settle: %s", message.entry_id, error)
            return True
        return bool(recorded)

    def _own(self, message: MessageProxy) -> LeasedMessage | None:
        if isinstance(message, LeasedMessage):
            return message
        self.logger.warning("Message %r did not come from a tenant queue; there is nothing to settle.", message)
        return None

    def _settle(self, leased: LeasedMessage, outcome: str, reason: str, *, permit: bool = True) -> None:
        settlement, pause = Settlement(leased, outcome, reason, permit), _LEAST_PAUSE_SECONDS
        while True:
            try:
                self.shard.settler.settle(self, settlement)
            except ServerRefuses as error:
                if self.broker.stopping:
                    raise
                # The thread waits here, with the message still leased: Dramatiq would log each of its tries.
                warn(self.logger, error, "Entry %r is not settled yet; trying again", leased.entry_id)
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
            else:
                return

    def close(self) -> None:
        """Gives back what was claimed and not yielded, and hangs up."""
        if self._closed:
            return
        self._closed = True
        self._bell.close()
        try:
            self.shard.settler.flush()
        finally:
            self._give_back_claimed()

    @property
    def closed(self) -> bool:
        return self._closed

    def _give_back_claimed(self) -> None:
        left, self._claimed = list(self._claimed), deque()
        self.give_back(left)
