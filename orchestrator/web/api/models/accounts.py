"""Accounts, their limits, target, session, usage and keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from ...http.models import WHOLE, AccountName, Answer, Body, Id, JsonObject, NamePaging, Query, Time
from .alerts import CircuitView

#: The largest count in a limit.
MAX_COUNT = 1_000_000_000

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
    """An account's limits; limits that are not set have their default."""

    weight: int
    account_concurrency: int | None
    max_waiting: int | None
    daily_quota: int | None
    lanes: dict[str, LaneLimitsView]


class RateRequest(Body):
    """At most `limit` starts in `per` seconds."""

    limit: Annotated[int, Field(ge=1, le=MAX_COUNT), WHOLE]
    per: Annotated[float, Field(ge=0.001, le=366 * 86_400, allow_inf_nan=False)]


class LaneLimitsRequest(Body):
    """The limits of one tenant queue."""

    # The rule of `_strict_is_serial` in the schema.
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
    """All limits of an account; omitted limits get their default."""

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
    account_concurrency: Annotated[int, Field(ge=1, le=MAX_COUNT), WHOLE] | None = None
    """Most steps that run at one time, over all lanes."""
    max_waiting: Annotated[int, Field(ge=0, le=MAX_COUNT), WHOLE] | None = None
    """Most jobs that are accepted and not started; more are 429 `queue_full`."""
    daily_quota: Annotated[int, Field(ge=0, le=MAX_COUNT), WHOLE] | None = None
    """Most jobs accepted per UTC day; more are 429 `quota_exhausted`."""
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
    """The state of a session; its content is never returned."""

    status: SessionStatus
    updated_at: Time | None
    expires_at: Time | None


class TargetView(Answer):
    """Where the account publishes."""

    publisher: str
    base_url: str
    options: JsonObject


class UsageDay(Answer):
    """The usage of one UTC day."""

    day: str
    jobs: int
    seconds: float
    tokens: int
    posts: int
    bytes: int


class UsageView(Answer):
    """The account's usage."""

    today: UsageDay
    days: list[UsageDay] = Field(description="The days with usage among the last 30, newest first.")


class AccountSummary(Answer):
    """An account in a list."""

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
    """Filters of the list of accounts."""

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
    """The name of an installed publisher, such as `wordpress` or `demo`."""
    base_url: str = Field(min_length=1, max_length=2000)
    options: JsonObject = Field(default_factory=dict)
    """The publisher's own options."""


class Credentials(Body):
    """User name and password of the account at its target."""

    username: Annotated[str, Field(min_length=1, max_length=500)]
    password: Annotated[str, Field(min_length=1, max_length=2000)]


class SessionRequest(Body):
    """A browser's storage state, or credentials, or both; an omitted one stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"credentials": {"username": "alice", "password": "correct horse"}}],
            # The rule of `_not_empty` in the schema.
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
    """When the storage state expires, if that is known."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
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
    """Seconds for which the old key stays valid; 0: it is revoked at once."""
    expires_at: Time | None = None
    """Of the new key; without it, the new key gets the old one's lifetime."""


class KeyView(Answer):
    """A key, without the secret itself."""

    id: Id
    scope: Literal["admin", "account"]
    account: AccountName | None
    name: str
    hint: str = Field(description="The first and last characters of the key, to recognise it.")
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None


class NewKeyView(KeyView):
    """A new key."""

    key: str = Field(description="The key itself. It is shown only in this answer and is not stored.")


class KeysQuery(Query):
    """Which keys to revoke."""

    id: str | None = Field(default=None, max_length=64)
    """Only this one; without it, all keys of the account."""


def usage_view(days: list[dict[str, Any]], today: str) -> dict[str, Any]:
    """Today's usage, zero if there was none, and the days."""
    empty = {"day": today, "jobs": 0, "seconds": 0.0, "tokens": 0, "posts": 0, "bytes": 0}
    return {"today": next((day for day in days if day["day"] == today), empty), "days": days}
