"""Alerts. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Circuit(TypedDict):
    """A tenant queue that rests because too many of its steps failed in a row."""

    status: Literal["open", "half_open"]
    """`half_open`: one step may start, or runs, as a canary."""
    failures: int
    """Steps in a row that ended for good without success, and canaries."""
    opened_at: str
    until: str
    """When the next canary may start."""


class Alert(TypedDict):
    """What a person should know: all of one kind, account and subject together."""

    id: str
    kind: Literal["dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"]
    account: str | None
    """Null: it belongs to no account."""
    state: Literal["waiting", "resting", "told", "given_up"]
    """`waiting` for its message; `resting`: sent, and more of its kind are sent when the pause is over; `given_up`: a
    channel did not take it."""
    occurrences: int
    told: int
    """Occurrences that were sent."""
    details: dict[str, Any]
    """Ids, names and codes of the latest."""
    commands: list[str]
    """What helps."""
    first_at: str
    last_at: str
    sent_at: str | None
    due_at: str | None
    """When it is sent next."""


class Channel(TypedDict):
    """What became of a test message at one of the alert URLs."""

    position: int
    """Which of `ONELANE_ALERT_URLS`, from 1 on."""
    kind: str
    """The URL's scheme. The rest of it may hold a secret, and is never shown."""
    delivered: bool


class AlertsTested(TypedDict):
    """A test message went to every alert URL."""

    items: list[Channel]
    """Empty: no alert URL is set."""


class OpenCircuit(Circuit):
    """An open circuit, with whose it is."""

    lane: str
    account: str
    queue: str
    cooldown: float
    """Seconds; doubled each time that a canary fails."""
