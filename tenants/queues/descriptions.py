"""The answers of the administration: frozen values, made from the scripts' answers.

Invariant: times are UTC datetimes made from the server's clock; durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from .keys import account_of
from .limits import FOR_GOOD, QueueLimits, StoredSettings

Standing = Literal["ready", "timed", "full", "parked", "busy", "idle", "absent", "damaged"]
_STANDINGS: dict[bytes, Standing] = {
    b"r": "ready",
    b"t": "timed",
    b"f": "full",
    b"p": "parked",
    b"b": "busy",
    b"i": "idle",
    b"-": "absent",
    b"n": "damaged",
}


@dataclass(frozen=True, slots=True)
class QueueDescription:
    """One tenant queue."""

    lane: str
    account: str | None
    waiting: int
    delayed: int
    active: int
    #: Seconds since the arrival of the message that is next; None when none waits.
    oldest_wait: float | None
    last_used_at: datetime
    #: The queue, its account or the whole lane is paused.
    paused: bool
    #: When the pause ends by itself; None: not paused, or for good.
    paused_until: datetime | None
    limits: QueueLimits
    #: `ready` to start, `timed` (checked again at a time), `full` (at its concurrency), `parked` (paused for good),
    #: `busy` (nothing waits, something runs), `idle`, `absent` (settings only), `damaged` (its state was lost; the next
    #: script that changes it, or the check, restores it).
    standing: Standing
    #: Moving average of the seconds that a message takes.
    mean_seconds: float

    @property
    def queue(self) -> str:
        """The name that people see."""
        return f"{self.lane}_{self.account}" if self.account is not None else self.lane


@dataclass(frozen=True, slots=True)
class AccountLoad:
    """The load of one account on a lane: seconds used in an hour, and messages waiting."""

    account: str | None
    seconds: float
    waiting: int
    #: Its share (0 to 1) of the lane's total of the figure by which the list is ordered.
    share: float


@dataclass(frozen=True, slots=True)
class LaneTotals:
    """A lane's totals, each kept up to date by the scripts."""

    waiting: int
    delayed: int
    active: int
    #: Accounts that may start something now.
    ready: int
    #: Tenant queues that have state, and how many of them are empty.
    queues: int
    idle: int
    #: The longest wait of an account's next message, seconds since its arrival; None when none waits.
    oldest_wait: float | None
    paused: bool
    global_concurrency: int | None
    buried: int
    #: Starts of messages since the lane began.
    started: int
    #: Seconds from arrival (or due time) to start, summed over these. Both only grow: the differences between two
    #: readings give the mean dwell time between them.
    dwelt_seconds: float


@dataclass(frozen=True, slots=True)
class BuriedMessage:
    """A message that will not run again: unknown actor, undecodable, or failed for good."""

    lane: str
    buried_id: str
    account: str | None
    entry_id: str
    reason: str
    buried_at: datetime
    #: The encoded Dramatiq message, as it was.
    payload: bytes


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease, as its slot has it."""

    slot: int
    epoch: int
    #: The broker's `worker_id` (see `lease_holder`) and a suffix of the process' own, joined by a dot.
    worker: str
    entry_id: str


@dataclass(frozen=True, slots=True)
class HeldEntries:
    """A page of the entries of a tenant queue."""

    lane: str
    account: str | None
    #: Waiting ones in order, then delayed ones by time.
    ids: tuple[str, ...]
    #: With a queue's first page only.
    leases: tuple[HeldLease, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a message does not run."""

    #: `delayed` `behind_other_messages` `at_concurrency` `rate_limited` `queue_paused` `account_paused` `lane_paused`
    #: `retry_backoff` (strict ordering) `lane_at_concurrency` `damaged` (a key was lost; the check repairs the queue)
    code: str
    #: When it ends by itself, if that is known.
    until: datetime | None = None
    #: How many messages come first, or run.
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold. The script that found it has repaired it."""

    lane: str
    #: Of a lane: `lane_state` `settings` `totals` `unlisted_grave` `empty_burial`. Of a tenant queue: `damaged`
    #: `no_state` `wrong_type` `nameless` `waiting` `delayed` `slots` `unreadable_slot` `slot_without_lease`
    #: `lease_without_slot` `in_no_place` `in_two_places` `leased_and_waiting` `no_message` `unreadable_entry`
    #: `stands_twice` `stands_nowhere` `misplaced`.
    kind: str
    account: str | None
    detail: str


def decode_description(lane: str, raw: bytes, now: int, lane_paused: int, fields: list[Any]) -> QueueDescription:
    waiting, delayed, active, since, used_at, stands, _, settings, mean, _ = fields
    stored = StoredSettings.decode(settings or None)
    pauses = [
        each for each in (lane_paused, stored.queue_paused, stored.account_paused) if each == FOR_GOOD or each > now
    ]
    ends = None if not pauses or FOR_GOOD in pauses else when(max(pauses))
    arrived = float(since)
    return QueueDescription(
        lane=lane,
        account=account_of(raw),
        waiting=waiting,
        delayed=delayed,
        active=active,
        oldest_wait=max(0.0, (now - arrived) / 1000) if arrived else None,
        last_used_at=when(int(used_at)),
        paused=bool(pauses),
        paused_until=ends,
        limits=stored.limits,
        standing=_STANDINGS[stands],
        mean_seconds=float(mean) / 1e6,
    )


def decode_buried(lane: str, buried_id: bytes, at: bytes, stored: bytes) -> BuriedMessage:
    head, body = stored.split(b"\n", 1)
    sizes = [int(part) for part in head.strip(b"[]").split(b",")]
    parts = []
    for size in sizes:
        parts.append(body[:size])
        body = body[size:]
    return BuriedMessage(
        lane=lane,
        buried_id=buried_id.decode(),
        account=account_of(parts[0]),
        entry_id=parts[1].decode(),
        reason=parts[2].decode("utf-8", "replace"),
        buried_at=when(int(float(at))),
        payload=body,
    )


def when(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def settings_of(described: list[Any] | None) -> StoredSettings:
    """From what `describe` answers for one tenant queue."""
    return StoredSettings.decode((described[7] if described else None) or None)


def decode_reasons(answer: list[Any], settings: StoredSettings) -> list[Reason]:
    """From the answer of `explain`, and the queue's settings, which have its pauses."""
    now, state, due, place, used, allowed, backoff, rate, lane_paused, leases, most, damaged = answer
    due_at = int(float(due)) if state == b"delayed" else now
    if damaged:
        return [Reason("damaged")]
    if state not in (b"waiting", b"delayed"):
        return []
    reasons = [Reason("delayed", until=when(due_at))] if state == b"delayed" else []
    pauses = {
        "lane_paused": int(float(lane_paused)),
        "queue_paused": settings.queue_paused,
        "account_paused": settings.account_paused,
    }
    for code, until in pauses.items():
        # A pause that ends before the message is due does not delay it.
        if until == FOR_GOOD or until > due_at:
            reasons.append(Reason(code, until=None if until == FOR_GOOD else when(until)))
    if state == b"delayed":
        return reasons
    holds = {"retry_backoff": backoff, "rate_limited": rate}
    reasons += [Reason(code, until=when(until)) for code, until in holds.items() if until]
    if place:
        reasons.append(Reason("behind_other_messages", count=place))
    if used >= allowed:
        reasons.append(Reason("at_concurrency", count=used))
    if most and leases >= most:
        reasons.append(Reason("lane_at_concurrency", count=leases))
    return reasons
