"""Accounts. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from .alerts import Circuit

AccountStatus = Literal["active", "paused", "draining", "suspended"]
SessionStatus = Literal["none", "ready", "expired", "login_required"]


class AccountSummary(TypedDict):
    """An account in a list."""

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
    """An account's limits; limits that are not set have their default."""

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
    """The state of a session; its content is never returned."""

    status: SessionStatus
    updated_at: str | None
    expires_at: str | None


class Target(TypedDict):
    """Where the account publishes."""

    publisher: str
    base_url: str
    options: dict[str, Any]


class UsageDay(TypedDict):
    """The usage of one UTC day."""

    day: str
    jobs: int
    seconds: float
    tokens: int
    posts: int
    bytes: int


class Usage(TypedDict):
    """The account's usage."""

    today: UsageDay
    days: list[UsageDay]
    """The days with usage among the last 30, newest first."""


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
    """A key, without the secret itself."""

    id: str
    scope: Literal["admin", "account"]
    account: str | None
    name: str
    hint: str
    """The first and last characters of the key, to recognise it."""
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewKey(Key):
    """A new key."""

    key: str
    """The key itself. It is shown only in this answer and is not stored."""
