"""Accounts and what belongs to one: target, session, keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from .alerts import CircuitView
from .base import WHOLE, AccountName, Answer, Body, Id, JsonObject, NamePaging, Query, Time

#: A bound on counts, far above any that makes sense.
MOST = 1_000_000_000

AccountStatus = Literal["active", "paused", "draining", "suspended"]
SessionStatus = Literal["none", "ready", "expired", "login_required"]


class RateView(Answer):
    """At most `limit` starts in `per` seconds."""

    limit: int
    per: float


class LaneLimitsView(Answer):
    """The limits of one tenant queue."""

    concurrency: int
    rate: RateView | None
    ordering: Literal["relaxed", "strict"]


class LimitsView(Answer):
    """An account's limits; what is not set has its default."""

    weight: int
    account_concurrency: int | None
    max_waiting: int | None
    daily_quota: int | None
    lanes: dict[str, LaneLimitsView]


class RateRequest(Body):
    """At most `limit` starts in `per` seconds."""

    limit: Annotated[int, Field(ge=1, le=MOST), WHOLE]
    per: Annotated[float, Field(ge=0.001, le=366 * 86_400, allow_inf_nan=False)]


class LaneLimitsRequest(Body):
    """The limits of one tenant queue."""

    # What `_strict_is_serial` asks for, as a schema says it.
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"ordering": {"const": "relaxed"}}},
                {"properties": {"concurrency": {"const": 1}}},
            ]
        }
    )

    concurrency: Annotated[int, Field(ge=1, le=100), WHOLE] = 1
    rate: RateRequest | None = None
    ordering: Literal["relaxed", "strict"] = "relaxed"
    """`strict`: a retry holds the queue during its backoff. Needs a concurrency of 1."""

    @model_validator(mode="after")
    def _strict_is_serial(self) -> Self:
        if self.ordering == "strict" and self.concurrency != 1:
            raise ValueError(f"ordering 'strict' needs a concurrency of 1, not {self.concurrency}")
        return self


class LimitsRequest(Body):
    """All limits of an account; what is left out has its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "weight": 2,
                    "max_waiting": 1000,
                    "lanes": {"publish": {"rate": {"limit": 10, "per": 3600}, "ordering": "strict"}},
                }
            ]
        }
    )

    weight: Annotated[int, Field(ge=1, le=100), WHOLE] = 1
    """An account of weight 2 gets twice the seconds of one of weight 1 when both have work waiting."""
    account_concurrency: Annotated[int, Field(ge=1, le=MOST), WHOLE] | None = None
    """Most steps at a time over all lanes."""
    max_waiting: Annotated[int, Field(ge=0, le=MOST), WHOLE] | None = None
    """Jobs accepted and not started; a POST beyond is 429 `queue_full`."""
    daily_quota: Annotated[int, Field(ge=0, le=MOST), WHOLE] | None = None
    """Jobs accepted in a UTC day; a POST beyond is 429 `quota_exhausted`."""
    lanes: dict[str, LaneLimitsRequest] = Field(default_factory=dict, max_length=100)


class AccountLane(Answer):
    """One tenant queue of the account."""

    lane: str
    queue: str
    waiting: int
    active: int
    delayed: int
    oldest_wait: float | None = Field(description="Seconds.")
    last_used_at: Time | None
    paused: bool
    circuit: CircuitView | None = Field(description="Null while it is closed.")


class SessionView(Answer):
    """What can be read of a session; its content is never returned."""

    status: SessionStatus
    updated_at: Time | None
    expires_at: Time | None


class TargetView(Answer):
    """Where the account publishes."""

    publisher: str
    base_url: str
    options: JsonObject


class UsageDay(Answer):
    """What was used in one UTC day."""

    day: str
    jobs: int
    seconds: float
    tokens: int
    posts: int
    bytes: int


class UsageView(Answer):
    """What the account used."""

    today: UsageDay
    days: list[UsageDay] = Field(description="The last 30 days with any use, newest first.")


class AccountSummary(Answer):
    """An account as the list shows it."""

    account: AccountName
    status: AccountStatus
    created_at: Time
    updated_at: Time


class AccountView(Answer):
    """An account."""

    account: AccountName
    status: AccountStatus
    limits: LimitsView
    lanes: list[AccountLane]
    session: SessionView
    target: TargetView | None
    usage: UsageView
    created_at: Time
    updated_at: Time


class AccountsQuery(NamePaging):
    """Which accounts a list holds."""

    q: str | None = Field(default=None, max_length=200)
    """A prefix of the account's id."""
    status: AccountStatus | None = None


class TargetRequest(Body):
    """Where to publish."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"publisher": "wordpress", "base_url": "https://blog.example.com", "options": {}}]
        }
    )

    publisher: str = Field(min_length=1, max_length=50)
    """`wordpress`, `demo`, … as far as they are installed."""
    base_url: str = Field(min_length=1, max_length=2000)
    options: JsonObject = Field(default_factory=dict)
    """What the publisher takes."""


class Credentials(Body):
    """What the account signs in with."""

    username: Annotated[str, Field(min_length=1, max_length=500)]
    password: Annotated[str, Field(min_length=1, max_length=2000)]


class SessionRequest(Body):
    """A browser's storage state, or what to sign in with, or both; what is left out stays as it was."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"credentials": {"username": "alice", "password": "correct horse"}}],
            # What `_something` asks for, as a schema says it.
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "object"}}}
                for name in ("storage_state", "credentials")
            ],
        }
    )

    storage_state: JsonObject | None = None
    """Cookies and localStorage, as Playwright saves them."""
    credentials: Credentials | None = None
    expires_at: Time | None = None
    """When the storage state ends to be of use, where that is known."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.storage_state is None and self.credentials is None:
            raise ValueError("give storage_state, credentials or both")
        return self


class KeyRequest(Body):
    """A key for the account."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "shop backend"}]})

    name: str = Field(default="", max_length=200)
    expires_at: Time | None = None


class RotationRequest(Body):
    """How a key is replaced."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap": 3600}]})

    overlap: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 86_400.0
    """Seconds for which the old key opens too; 0: it ends at once."""
    expires_at: Time | None = None
    """Of the new key; as long a life as the old one was given when it is left out."""


class KeyView(Answer):
    """A key, without what opens the door."""

    id: Id
    scope: Literal["admin", "account"]
    account: AccountName | None
    name: str
    hint: str = Field(description="The key's beginning and end, to recognise it.")
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None


class NewKeyView(KeyView):
    """A key that was just made."""

    key: str = Field(description="The key itself. It is shown this once and kept nowhere.")


class KeysQuery(Query):
    """Which keys to end."""

    id: str | None = Field(default=None, max_length=64)
    """Only this one; all of the account's keys when it is left out."""


def usage_view(days: list[dict[str, Any]], today: str) -> dict[str, Any]:
    """Today's use first, zeros where there was none."""
    empty = {"day": today, "jobs": 0, "seconds": 0.0, "tokens": 0, "posts": 0, "bytes": 0}
    return {"today": next((day for day in days if day["day"] == today), empty), "days": days}
