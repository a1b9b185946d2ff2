"""A message under lease, as consumers yield it and actors see it.

Invariants: slot and epoch name the lease on the server; only the holder of the epoch settles the message; a reschedule
is recorded on the server at once and sent again with the settle, so that settle and rescue both apply it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from .errors import InvalidEntry
from .keys import account_of
from .lane_state import LaneState

#: Records a reschedule on the server: message, delay in seconds, new message. False: the lease is lost.
RecordReschedule = Callable[["LeasedMessage", float, Message[Any] | None], bool]

_event_mutex = threading.Lock()
_current: ContextVar[LeasedMessage | None] = ContextVar("onelane_current_message", default=None)


class LeasedMessage(MessageProxy):
    """A claimed message: Dramatiq's proxy, and the lease under which it runs."""

    def __init__(
        self,
        message: Message[Any],
        *,
        lane_state: LaneState,
        record_reschedule: RecordReschedule,
        token: bytes,
        entry_id: str,
        slot: int,
        epoch: int,
        deliveries: int,
        waited_seconds: float,
        leased_at: float,
    ) -> None:
        super().__init__(message)
        # Copies: Dramatiq's worker and middleware read these thirty times a message, and `__getattr__` is slow.
        self.queue_name = message.queue_name
        self.actor_name = message.actor_name
        self.args = message.args
        self.kwargs = message.kwargs
        self.options = message.options
        self.message_id = message.message_id
        self.message_timestamp = message.message_timestamp
        self.lane_state = lane_state
        self.token = token
        self.entry_id = entry_id
        self.slot = slot
        self.epoch = epoch
        #: How many leases of this message have expired.
        self.deliveries = deliveries
        #: From its arrival (or due time) to the claim, by the server's clock.
        self.waited_seconds = waited_seconds
        self._lease_lost: threading.Event | None = None
        #: Monotonic time at which the server last confirmed the lease.
        self.confirmed_at = leased_at
        self.thread_id: int | None = None
        #: Held while the message is settled and while its thread is interrupted, so that these exclude each other.
        self.ending = threading.Lock()
        self.settling = False
        self._record_reschedule = record_reschedule
        self._reschedule: tuple[float, Message[Any] | None] | None = None

    @property
    def lease_lost(self) -> threading.Event:
        """Set when the lease is lost: another worker may have the message."""
        # Created at first use: creating an event takes long compared with the rest of a message.
        if self._lease_lost is None:
            with _event_mutex:
                if self._lease_lost is None:
                    self._lease_lost = threading.Event()
        return self._lease_lost

    @property
    def is_lost(self) -> bool:
        return self._lease_lost is not None and self._lease_lost.is_set()

    @property
    def account(self) -> str | None:
        return account_of(self.token)

    @property
    def lane(self) -> str:
        return self.lane_state.lane

    @property
    def rescheduled(self) -> tuple[float, Message[Any] | None] | None:
        """(delay in seconds, new message or None) after `reschedule` was called."""
        return self._reschedule

    def reschedule(self, delay_seconds: float, message: Message[Any] | None = None) -> bool:
        """Runs this entry again after `delay_seconds`, as `message` if one is given. It keeps its id and sequence.

        It takes effect when the message is settled (unless it failed: then it is buried) or its lease expires. Returns
        False if the lease is already lost; then it has no effect.

        Raises:
            InvalidEntry: the delay is negative.
        """
        if delay_seconds < 0:
            raise InvalidEntry(f"delay: {delay_seconds} s; it cannot be negative")
        self._reschedule = (delay_seconds, message)
        return self._record_reschedule(self, delay_seconds, message)


def current_message() -> LeasedMessage | None:
    """The message that this thread (or the coroutine of an async actor) is processing."""
    return _current.get()


def set_current_message(message: LeasedMessage | None) -> None:
    _current.set(message)
