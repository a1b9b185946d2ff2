"""An entry: a message for a tenant queue, from the caller to the enqueue script.

Invariants: an entry id is unique within its tenant queue for as long as the queue holds it; the order within a queue is
(rank, sequence), and both together fit a double exactly (8 + 45 bits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy
from dramatiq.common import current_millis

from .errors import InvalidEntry
from .server import Argument

DEFAULT_PRIORITY = 5
MAX_RANK = 255
MAX_SEQUENCE = 2**45 - 1
MAX_DELAY_SECONDS = 10 * 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One message for a tenant queue. The lane is `message.queue_name`, the account `message.options["account"]`.

    Raises:
        InvalidEntry: a value is out of bounds.
    """

    message: Message[Any]
    #: Unique within the tenant queue.
    id: str
    #: 0 is first, 9 last.
    priority: int = DEFAULT_PRIORITY
    #: Orders within a priority; below 2**45. None: the order of arrival.
    sequence: int | None = None
    delay_seconds: float = 0.0
    #: For plain Dramatiq messages, in place of the priority: 0 is first, 255 last.
    rank: int | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= 200:
            raise InvalidEntry(f"entry id: {self.id!r} has {len(self.id)} characters; 1 to 200 are allowed")
        if not 0 <= self.priority <= 9:
            raise InvalidEntry(f"priority: {self.priority}; 0 to 9 are allowed")
        if self.sequence is not None and not 0 <= self.sequence <= MAX_SEQUENCE:
            raise InvalidEntry(f"sequence: {self.sequence}; 0 to {MAX_SEQUENCE} are allowed")
        if not 0 <= self.delay_seconds <= MAX_DELAY_SECONDS:
            raise InvalidEntry(f"delay: {self.delay_seconds} s; 0 to {MAX_DELAY_SECONDS:.0f} are allowed")

    def arguments(self, token: bytes) -> tuple[Argument, ...]:
        """The six arguments of the enqueue script."""
        rank = self.priority if self.rank is None else self.rank
        sequence = "" if self.sequence is None else self.sequence
        return token, self.id, rank, sequence, milliseconds(self.delay_seconds), self.message.encode()


def rank_of_actor(priority: int) -> int:
    """The rank of a plain message: its actor's priority (0 by default, lower is first), shifted to our default."""
    return max(0, min(MAX_RANK, DEFAULT_PRIORITY + priority))


def milliseconds(seconds: float) -> int:
    """Whole ms, rounded up so that nothing starts too early. Less than 1 µs counts as a rounding error."""
    return max(0, math.ceil(round(seconds * 1000, 3)))


def plain_message(message: Message[Any] | MessageProxy) -> Message[Any]:
    """A copy of the message, or of the message in a consumer's proxy. The copy has its own options."""
    given = message._message if isinstance(message, MessageProxy) else message
    # `Message.copy` takes three times as long, and every message that is sent is copied.
    return Message(
        given.queue_name,
        given.actor_name,
        given.args,
        given.kwargs,
        dict(given.options),
        given.message_id,
        given.message_timestamp,
    )


def without_eta(message: Message[Any], delay_ms: int | None) -> tuple[Message[Any], int]:
    """The message without Dramatiq's `eta`, and its delay in ms; an explicit delay wins."""
    if "eta" not in message.options:
        return message, max(0, delay_ms or 0)
    eta = message.options["eta"]
    message = plain_message(message)
    del message.options["eta"]
    if delay_ms is None and isinstance(eta, int | float):
        delay_ms = int(eta - current_millis())
    return message, max(0, delay_ms or 0)


def remember_entry(message: Message[Any], entry_id: str) -> None:
    """Keeps the entry's id on the message: not in a field, so that it still equals the message that is received."""
    vars(message)["_entry_id"] = entry_id


def entry_id_of(message: Message[Any]) -> str | None:
    """The entry id of a message that `enqueue` (or an actor's `send`) returned."""
    found: str | None = vars(message).get("_entry_id")
    return found
