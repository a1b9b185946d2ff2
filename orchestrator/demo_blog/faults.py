"""Fault injection, for tests of every failure of a publish.

A fault applies once, to the next matching request (of one user, or of any).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

#: The effect of each kind on a request; only some use `seconds`.
FAULT_KINDS = {
    "slow_before": "waits `seconds` before the post is made; it is made even if the browser has disconnected",
    "slow_after": "makes the post, then waits `seconds` before answering",
    "hang_before": "makes nothing and does not answer for `seconds`",
    "hang_after": "makes the post and does not answer for `seconds`",
    "error_before": "answers 500 and makes nothing",
    "error_after": "makes the post and answers 500",
    "drop_session": "ends the session as the post arrives; makes nothing",
    "lose_body": "makes the post without its body and reports success",
    "slow_editor": "the editor updates the form only `seconds` after a paste: an early click sends an empty body",
    "broken_page": "the public page of a post answers 503",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One pending fault; `user` None matches any user."""

    kind: str
    user: str | None
    seconds: float


class Faults:
    """The pending faults. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, kind: str, *, user: str | None = None, seconds: float = 60.0, times: int = 1) -> None:
        """Inject the fault into the next `times` matching requests.

        Raises:
            ValueError: there is no such kind, or a number is out of range.
        """
        if kind not in FAULT_KINDS:
            raise ValueError(f"there is no fault {kind!r}; known are {', '.join(FAULT_KINDS)}")
        if not 0 <= seconds <= 600 or not 1 <= times <= 10_000:
            raise ValueError("seconds must be 0 to 600 and times 1 to 10000")
        with self._guard:
            self._waiting.extend([Fault(kind, user, seconds)] * times)

    def take(self, kind: str, user: str) -> Fault | None:
        """Remove and return the oldest pending fault of that kind for that user."""
        with self._guard:
            for fault in self._waiting:
                if fault.kind == kind and fault.user in (None, user):
                    self._waiting.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        with self._guard:
            self._waiting.clear()

    def waiting(self) -> list[Fault]:
        """The faults that were not injected yet."""
        with self._guard:
            return list(self._waiting)
