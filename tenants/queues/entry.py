"""What is put into a tenant queue, and how it travels to the scripts.

Invariants: an entry id is unique within its tenant queue for as long as the queue holds it; order within a queue is
(rank, sequence); rank and sequence together fit a double exactly (8 + 45 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dramatiq import Message

from .errors import InvalidEntry

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

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= 200:
            raise InvalidEntry(f"entry id: {self.id!r} has {len(self.id)} characters; 1 to 200 are allowed")
        if not 0 <= self.priority <= 9:
            raise InvalidEntry(f"priority: {self.priority}; 0 to 9 are allowed")
        if self.sequence is not None and not 0 <= self.sequence <= MAX_SEQUENCE:
            raise InvalidEntry(f"sequence: {self.sequence}; 0 to {MAX_SEQUENCE} are allowed")
        if not 0 <= self.delay_seconds <= MAX_DELAY_SECONDS:
            raise InvalidEntry(f"delay: {self.delay_seconds} s; 0 to {MAX_DELAY_SECONDS:.0f} are allowed")


def rank_of_actor(priority: int) -> int:
    """The rank of a plain message: Dramatiq's actor priority (0 by default, lower is first) around our default."""
    return max(0, min(MAX_RANK, DEFAULT_PRIORITY + priority))


def milliseconds(seconds: float) -> int:
    """Whole ms, rounded up, so that nothing starts too early."""
    return max(0, -int(-seconds * 1000 // 1))


def remember_entry(message: Message[Any], entry_id: str) -> None:
    """Notes under which entry a message went in: beside its fields, so that it stays equal to what is received."""
    vars(message)["_entry_id"] = entry_id


def entry_id_of(message: Message[Any]) -> str | None:
    """The id of the entry that a message became: of the message that `enqueue` (or an actor's `send`) gave back."""
    found: str | None = vars(message).get("_entry_id")
    return found
