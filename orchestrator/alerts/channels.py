"""The channels of alerts: one of apprise's for each URL in the settings.

Invariants
- No part of a URL is shown or logged: channels are named by position and kind. apprise and its HTTP client log URLs, so
  their loggers are off; this module logs failures.
- Sending is bounded in time, also if a receiver answers slowly.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from actors.extras import require

log = logging.getLogger(__name__)

#: The time-out of one message to one channel.
SEND_SECONDS = 15.0

_URL_LOGGERS = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib")


@dataclass(frozen=True, slots=True)
class Channel:
    """One URL of the settings; positions count from 1."""

    position: int
    kind: str
    url: str

    def __repr__(self) -> str:
        return f"channel {self.position} ({self.kind})"

    __str__ = __repr__


def channels_of(urls: Sequence[str]) -> list[Channel]:
    """The channels of these valid URLs."""
    return [Channel(number, _kind_of(url), url) for number, url in enumerate(urls, 1)]


def faults_of(urls: Sequence[str]) -> list[str]:
    """A sentence for each URL that apprise does not understand; it shows only the URL's kind."""
    return [
        f"number {number} ({_kind_of(url)}) is not a URL that apprise understands; see its documentation for the form"
        for number, url in enumerate(urls, 1)
        if _service_of(url) is None
    ]


def send(
    channels: Sequence[Channel], title: str, body: str, *, problem: bool = True, seconds: float = SEND_SECONDS
) -> list[Channel]:
    """Send a message to these channels concurrently; returns those that did not accept it."""
    if not channels:
        return []
    _apprise()  # before the threads start: its import turns warnings off for all of them
    with ThreadPoolExecutor(max_workers=min(16, len(channels)), thread_name_prefix="alert") as pool:
        taken = list(pool.map(lambda channel: _send(channel, title, body, problem, seconds), channels))
    return [channel for channel, ok in zip(channels, taken, strict=True) if not ok]


def chosen(channels: Sequence[Channel], positions: Collection[int] | None) -> list[Channel]:
    """The channels at these positions; None: all. Unknown positions are ignored."""
    return [channel for channel in channels if positions is None or channel.position in positions]


def _send(channel: Channel, title: str, body: str, problem: bool, seconds: float) -> bool:
    apprise = _apprise()
    try:
        sender = apprise.Apprise()
        sender.add(channel.url)
        kind = apprise.NotifyType.WARNING if problem else apprise.NotifyType.SUCCESS
        result = sender.notify(
            body=body, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT, timeout=seconds
        )
    except Exception as error:
        # A plugin's error may quote its URL, so only the type is logged.
        log.warning("%s failed: %s", channel, type(error).__name__)
        return False
    if not result:
        log.warning("%s did not accept an alert", channel)
    return bool(result)


def _service_of(url: str) -> Any | None:
    apprise = _apprise()
    try:
        return apprise.Apprise.instantiate(url)
    except Exception:
        return None


@cache
def _apprise() -> ModuleType:
    """Import apprise with all its plugins, which takes seconds; most processes send no alerts.

    Raises:
        ExtraMissing: it is not installed.
    """
    require("alerts", "sending alerts")
    for name in _URL_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of modules that its plugins import
        import apprise

        apprise.Apprise.instantiate("json://localhost")
    return apprise


def _kind_of(url: str) -> str:
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]{0,31})://", url.strip())
    return found[1].lower() if found else "no scheme"
