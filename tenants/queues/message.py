"""A message under lease, as consumers yield it and actors see it.

Invariants: slot and epoch name the lease on the server; nothing but the holder of the epoch settles it; a reschedule
is told to the server at once and again with the settle, so that it is applied by whichever comes, settle or rescue.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from .errors import InvalidEntry

if TYPE_CHECKING:
    from .consumer import LaneShard, TenantConsumer

_making = threading.Lock()
_current: ContextVar[LeasedMessage | None] = ContextVar("onelane_current_message", default=None)


class LeasedMessage(MessageProxy):
    """A claimed message: Dramatiq's proxy, and the lease under which it runs."""

    def __init__(
        self,
        message: Message[Any],
        *,
        consumer: TenantConsumer,
        shard: LaneShard,
        token: bytes,
        entry_id: str,
        slot: int,
        epoch: int,
        deliveries: int,
        waited_seconds: float,
        leased_at: float,
    ) -> None:
        super().__init__(message)
        # The proxy finds these by `__getattr__` each time, thirty times a message in Dramatiq's worker and middleware.
        self.queue_name = message.queue_name
        self.actor_name = message.actor_name
        self.args = message.args
        self.kwargs = message.kwargs
        self.options = message.options
        self.message_id = message.message_id
        self.message_timestamp = message.message_timestamp
        self.consumer = consumer
        self.shard = shard
        self.token = token
        self.entry_id = entry_id
        self.slot = slot
        self.epoch = epoch
        #: How often this message was leased before and the lease expired.
        self.deliveries = deliveries
        #: From its arrival (or due time) to the claim, by the server's clock.
        self.waited_seconds = waited_seconds
        self._lease_lost: threading.Event | None = None
        #: Monotonic time of the last moment at which the lease was known to be ours.
        self.confirmed_at = leased_at
        self.thread_id: int | None = None
        #: Held by who ends the message, and by who interrupts its thread: not both.
        self.ending = threading.Lock()
        self.settling = False
        self._reschedule: tuple[float, Message[Any] | None] | None = None

    @property
    def lease_lost(self) -> threading.Event:
        """Set when the lease is lost: another worker may have the message."""
        # Made when it is first asked for: an event is costly beside the rest of a message.
        if self._lease_lost is None:
            with _making:
                if self._lease_lost is None:
                    self._lease_lost = threading.Event()
        return self._lease_lost

    @property
    def is_lost(self) -> bool:
        return self._lease_lost is not None and self._lease_lost.is_set()

    @property
    def account(self) -> str | None:
        return None if self.token == b"-" else self.token[1:].decode("utf-8")

    @property
    def lane(self) -> str:
        return self.shard.lane

    @property
    def rescheduled(self) -> tuple[float, Message[Any] | None] | None:
        """(delay in seconds, new message or None), once `reschedule` was called."""
        return self._reschedule

    def reschedule(self, delay_seconds: float, message: Message[Any] | None = None) -> bool:
        """Run this entry again after `delay_seconds`, as `message` where one is given. It keeps id and sequence.

        It takes effect when the message is settled (unless it failed: then it is buried) or its lease expires. False:
        the lease is lost already, and nothing comes of it.

        Raises:
            InvalidEntry: the delay is negative.
        """
        if delay_seconds < 0:
            raise InvalidEntry(f"delay: {delay_seconds} s; it cannot be negative")
        self._reschedule = (delay_seconds, message)
        return self.consumer.record_reschedule(self, delay_seconds, message)


def current_message() -> LeasedMessage | None:
    """The message that this thread (or the coroutine of an async actor) is processing."""
    return _current.get()


def set_current_message(message: LeasedMessage | None) -> None:
    _current.set(message)
