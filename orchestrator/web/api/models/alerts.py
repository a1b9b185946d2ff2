"""Alerts and circuits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...http.models import AccountName, Answer, Id, JsonObject, NamePaging, Paging, Time

AlertKind = Literal[
    "dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"
]


class CircuitView(Answer):
    """A tenant queue that is stopped because too many of its steps failed in a row."""

    status: Literal["open", "half_open"] = Field(
        description="`half_open`: one step may start, or is running, as a canary."
    )
    failures: int = Field(description="Steps that failed for good in a row, canaries included.")
    opened_at: Time
    until: Time = Field(description="When the next canary may start.")


class OpenCircuitView(CircuitView):
    """An open circuit, with its tenant queue."""

    lane: str
    account: str
    queue: str
    cooldown: float = Field(description="Seconds; doubled each time a canary fails.")


class CircuitsQuery(NamePaging):
    """Filters of the list of open circuits."""

    lane: str | None = Field(default=None, max_length=64)
    account: AccountName | None = None


class AlertView(Answer):
    """An event that a person should know; equal ones of an account are one alert."""

    id: Id
    kind: AlertKind
    account: str | None = Field(description="Null: no account.")
    state: Literal["waiting", "resting", "told", "given_up"] = Field(
        description="`waiting` for its message; `resting`: sent, and later occurrences are sent after the pause; "
        "`told`: all were sent; `given_up`: a channel refused the message."
    )
    occurrences: int
    told: int = Field(description="How many occurrences were sent.")
    details: JsonObject = Field(description="Ids, names and codes of the last occurrence.")
    commands: list[str] = Field(description="Commands that help to fix the cause.")
    first_at: Time
    last_at: Time
    sent_at: Time | None
    due_at: Time | None = Field(description="When the next message is sent.")


class AlertsQuery(Paging):
    """Filters of the list of alerts."""

    account: AccountName | None = None
    kind: AlertKind | None = None


class ChannelView(Answer):
    """The result of a test message to one alert URL."""

    position: int = Field(description="The position in `ONELANE_ALERT_URLS`, from 1.")
    kind: str = Field(description="The URL's scheme. The rest may contain a secret, and is never shown.")
    delivered: bool


class AlertsTested(Answer):
    """The result of a test message to every alert URL."""

    items: list[ChannelView] = Field(description="Empty: no alert URL is set.")
