"""Alerts, and the circuits that some of them tell of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import AccountName, Answer, Id, JsonObject, NamePaging, Paging, Time

AlertKind = Literal[
    "dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"
]


class CircuitView(Answer):
    """A tenant queue that rests because too many of its steps failed in a row."""

    status: Literal["open", "half_open"] = Field(description="`half_open`: one step may start, or runs, as a canary.")
    failures: int = Field(description="Steps in a row that ended for good without success, and canaries.")
    opened_at: Time
    until: Time = Field(description="When the next canary may start.")


class OpenCircuitView(CircuitView):
    """An open circuit, with whose it is."""

    lane: str
    account: str
    queue: str
    cooldown: float = Field(description="Seconds; doubled each time that a canary fails.")


class CircuitsQuery(NamePaging):
    """Which open circuits."""

    lane: str | None = Field(default=None, max_length=64)
    account: AccountName | None = None


class AlertView(Answer):
    """What a person should know: all of one kind, account and subject together."""

    id: Id
    kind: AlertKind
    account: str | None = Field(description="Null: it belongs to no account.")
    state: Literal["waiting", "resting", "told", "given_up"] = Field(
        description="`waiting` for its message; `resting`: sent, and more of its kind are sent when the pause is over; "
        "`given_up`: a channel did not take it."
    )
    occurrences: int
    told: int = Field(description="Occurrences that were sent.")
    details: JsonObject = Field(description="Ids, names and codes of the latest.")
    commands: list[str] = Field(description="What helps.")
    first_at: Time
    last_at: Time
    sent_at: Time | None
    due_at: Time | None = Field(description="When it is sent next.")


class AlertsQuery(Paging):
    """Which alerts."""

    account: AccountName | None = None
    kind: AlertKind | None = None


class ChannelView(Answer):
    """What became of a test message at one of the alert URLs."""

    position: int = Field(description="Which of `ONELANE_ALERT_URLS`, from 1 on.")
    kind: str = Field(description="The URL's scheme. The rest of it may hold a secret, and is never shown.")
    delivered: bool


class AlertsTested(Answer):
    """A test message went to every alert URL."""

    items: list[ChannelView] = Field(description="Empty: no alert URL is set.")
