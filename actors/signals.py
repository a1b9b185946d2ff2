"""Signals: a step raises one to choose what happens next. They are not errors.

    Signal
    ├── Retry         run again after a delay; the attempt is spent
    ├── Snooze        run again at a given time; no attempt is spent
    ├── Reject        do not run again; the step fails now
    └── ProviderBusy  every step that uses this credential waits; no attempt is spent

Signals cross a process boundary as plain data (`kind` and `data()`), never as pickled objects.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar


class Signal(Exception):
    """Base class. `signal_kind` is the stable name that crosses the process boundary."""

    signal_kind: ClassVar[str]

    def data(self) -> dict[str, Any]:
        """The signal as JSON-ready data, for the worker."""
        return {"reason": str(self)}


class Retry(Signal):
    """Try this step again; the attempt counts.

    `after` is in seconds; None leaves the delay to the step's backoff.
    """

    signal_kind = "retry"

    def __init__(self, after: float | None = None, reason: str = "the step asked for a retry") -> None:
        if after is not None and not after >= 0:
            raise ValueError(f"Retry(after={after!r}): the delay must be zero or more seconds")
        super().__init__(reason)
        self.after = after

    def data(self) -> dict[str, Any]:
        return {"reason": str(self), "after": self.after}


class Snooze(Signal):
    """Stop now and run again at `until` (an aware datetime); the attempt does not count."""

    signal_kind = "snooze"

    def __init__(self, until: datetime, reason: str = "the step asked to wait") -> None:
        if until.tzinfo is None:
            raise ValueError(f"Snooze(until={until!r}): the time needs a time zone")
        super().__init__(reason)
        self.until = until.astimezone(UTC)

    def data(self) -> dict[str, Any]:
        return {"reason": str(self), "until": self.until.isoformat()}


class Reject(Signal):
    """Fail this step for good. `code` is the error code of step and job."""

    signal_kind = "reject"

    def __init__(self, reason: str, code: str = "rejected") -> None:
        super().__init__(reason)
        self.code = code

    def data(self) -> dict[str, Any]:
        return {"reason": str(self), "code": self.code}


class ProviderBusy(Signal):
    """A provider refuses for now, because a quota is used up.

    `after` is in seconds (None: the worker's own backoff); `scope` names provider and credential, e.g.
    ``gemini:3f2a``. Only the steps that use the scope wait; no attempt is spent.
    """

    signal_kind = "provider_busy"

    def __init__(self, after: float | None, scope: str, reason: str = "the provider is busy") -> None:
        if after is not None and not after >= 0:
            raise ValueError(f"ProviderBusy(after={after!r}): the delay must be zero or more seconds")
        super().__init__(reason)
        self.after = after
        self.scope = scope

    def data(self) -> dict[str, Any]:
        return {"reason": str(self), "after": self.after, "scope": self.scope}
