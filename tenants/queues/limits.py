"""Limits of a tenant queue: frozen values, checked when created, and their stored form.

Invariant: an account without settings has `QueueLimits()`, and takes no space in the lane's settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from .errors import InvalidEntry

MAX_CONCURRENCY = 1000
MAX_WEIGHT = 100

#: Stored pauses: not paused, and paused for good.
RUNNING, FOR_GOOD = 0, -1


def until_ms(until: datetime | None) -> int:
    """The stored form of a pause's end; None: for good."""
    if until is None:
        return FOR_GOOD
    if until.tzinfo is None:
        raise InvalidEntry(f"until: {until} has no time zone")
    return max(1, round(until.timestamp() * 1000))


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` starts in `per` seconds: a token bucket of `limit`, refilled evenly. Each start counts."""

    limit: int
    per: float

    def __post_init__(self) -> None:
        if self.limit < 1 or not 0.001 <= self.per <= 31_622_400:
            raise InvalidEntry(f"rate: {self.limit} per {self.per} s; limit is at least 1, per is 0.001 to 31622400 s")


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of a tenant queue. A change acts at once on messages that wait.

    Raises:
        InvalidEntry: a value is out of bounds, or `strict` is asked for with a concurrency above 1.
    """

    #: 1 to 100: the share of seconds among the accounts that have work waiting.
    weight: int = 1
    #: Most messages that run at one time, over all workers.
    concurrency: int = 1
    rate: Rate | None = None
    #: Most messages that wait (delayed ones count); `QueueFull` beyond. None: no bound.
    max_waiting: int | None = None
    #: A message whose lease expired this often is buried instead of run again. None: no bound.
    max_deliveries: int | None = None
    #: `strict`: a retry holds the whole queue during its backoff. Concurrency must be 1.
    ordering: Literal["relaxed", "strict"] = "relaxed"

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= MAX_WEIGHT:
            raise InvalidEntry(f"weight: {self.weight}; 1 to {MAX_WEIGHT} are allowed")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise InvalidEntry(f"concurrency: {self.concurrency}; 1 to {MAX_CONCURRENCY} are allowed")
        for name in ("max_waiting", "max_deliveries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidEntry(f"{name}: {value}; at least 1, or None for no bound")
        if self.ordering not in ("relaxed", "strict"):
            raise InvalidEntry(f"ordering: {self.ordering!r}; 'relaxed' or 'strict'")
        if self.ordering == "strict" and self.concurrency != 1:
            raise InvalidEntry(f"ordering: 'strict' needs a concurrency of 1, not {self.concurrency}")

    def fields(self) -> tuple[int, ...]:
        """The seven numbers of the stored form."""
        return (
            self.weight,
            self.concurrency,
            self.rate.limit if self.rate else 0,
            round(self.rate.per * 1000) if self.rate else 0,
            int(self.ordering == "strict"),
            self.max_waiting or 0,
            self.max_deliveries or 0,
        )

    @classmethod
    def from_fields(cls, fields: tuple[int, ...]) -> QueueLimits:
        """The inverse of `fields`."""
        weight, concurrency, rate_limit, rate_per, strict, max_waiting, max_deliveries = fields
        return cls(
            weight=weight,
            concurrency=concurrency,
            rate=Rate(rate_limit, rate_per / 1000) if rate_limit else None,
            max_waiting=max_waiting or None,
            max_deliveries=max_deliveries or None,
            ordering="strict" if strict else "relaxed",
        )


@dataclass(frozen=True, slots=True)
class StoredSettings:
    """Limits and pauses of a tenant queue. The server stores them as nine numbers joined by colons."""

    limits: QueueLimits = QueueLimits()
    #: ms since 1970 until which the queue is paused; 0 not, -1 for good.
    queue_paused: int = RUNNING
    #: The same for the account as a whole.
    account_paused: int = RUNNING

    def encode(self) -> str:
        return ":".join(map(str, (*self.limits.fields(), self.queue_paused, self.account_paused)))

    @classmethod
    def decode(cls, raw: bytes | None) -> StoredSettings:
        if raw is None:
            return cls(QueueLimits(), RUNNING, RUNNING)
        try:
            numbers = tuple(int(part) for part in raw.split(b":"))
            return cls(QueueLimits.from_fields(numbers[:7]), numbers[7], numbers[8])
        except (ValueError, IndexError):
            return cls(QueueLimits(), RUNNING, RUNNING)  # it cannot be read: the scripts use the defaults too
