"""Alerts. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Circuit(TypedDict):
    """A tenant queue that is stopped because too many of its steps failed in a row."""

    status: Literal["open", "half_open"]
    """`half_open`: one step may start, or is running, as a canary."""
    failures: int
    """Steps that failed for good in a row, canaries included."""
    opened_at: str
    until: str
    """When the next canary may start."""


class Alert(TypedDict):
    """An event that a person should know; equal ones of an account are one alert."""

    id: str
    kind: Literal["dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"]
    account: str | None
    """Null: no account."""
    state: Literal["waiting", "resting", "told", "given_up"]
    """`waiting` for its message; `resting`: sent, and later occurrences are sent after the pause; `told`: all were
    sent; `given_up`: a channel refused the message."""
    occurrences: int
    told: int
    """How many occurrences were sent."""
    details: dict[str, Any]
    """Ids, names and codes of the last occurrence."""
    commands: list[str]
    """Commands that help to fix the cause."""
    first_at: str
    last_at: str
    sent_at: str | None
    due_at: str | None
    """When the next message is sent."""


class Channel(TypedDict):
    """The result of a test message to one alert URL."""

    position: int
    """The position in `ONELANE_ALERT_URLS`, from 1."""
    kind: str
    """The URL's scheme. The rest may contain a secret, and is never shown."""
    delivered: bool


class AlertsTested(TypedDict):
    """The result of a test message to every alert URL."""

    items: list[Channel]
    """Empty: no alert URL is set."""


class OpenCircuit(Circuit):
    """An open circuit, with its tenant queue."""

    lane: str
    account: str
    queue: str
    cooldown: float
    """Seconds; doubled each time a canary fails."""
