"""Accounts. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from .alerts import Circuit

AccountStatus = Literal["active", "paused", "draining", "suspended"]
SessionStatus = Literal["none", "ready", "expired", "login_required"]


class AccountSummary(TypedDict):
    """An account as the list shows it."""

    account: str
    status: AccountStatus
    created_at: str
    updated_at: str


class Rate(TypedDict):
    """At most `limit` starts in `per` seconds."""

    limit: int
    per: float


class LaneLimits(TypedDict):
    """The limits of one tenant queue."""

    concurrency: int
    rate: Rate | None
    ordering: Literal["relaxed", "strict"]


class Limits(TypedDict):
    """An account's limits; what is not set has its default."""

    weight: int
    account_concurrency: int | None
    max_waiting: int | None
    daily_quota: int | None
    lanes: dict[str, LaneLimits]


class AccountLane(TypedDict):
    """One tenant queue of the account."""

    lane: str
    queue: str
    waiting: int
    active: int
    delayed: int
    oldest_wait: float | None
    """Seconds."""
    last_used_at: str | None
    paused: bool
    circuit: Circuit | None
    """Null while it is closed."""


class Session(TypedDict):
    """What can be read of a session; its content is never returned."""

    status: SessionStatus
    updated_at: str | None
    expires_at: str | None


class Target(TypedDict):
    """Where the account publishes."""

    publisher: str
    base_url: str
    options: dict[str, Any]


class UsageDay(TypedDict):
    """What was used in one UTC day."""

    day: str
    jobs: int
    seconds: float
    tokens: int
    posts: int
    bytes: int


class Usage(TypedDict):
    """What the account used."""

    today: UsageDay
    days: list[UsageDay]
    """The last 30 days with any use, newest first."""


class Account(TypedDict):
    """An account."""

    account: str
    status: AccountStatus
    limits: Limits
    lanes: list[AccountLane]
    session: Session
    target: Target | None
    usage: Usage
    created_at: str
    updated_at: str


class Key(TypedDict):
    """A key, without what opens the door."""

    id: str
    scope: Literal["admin", "account"]
    account: str | None
    name: str
    hint: str
    """The key's beginning and end, to recognise it."""
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewKey(Key):
    """A key that was just made."""

    key: str
    """The key itself. It is shown this once and kept nowhere."""
