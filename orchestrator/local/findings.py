"""What `onelane doctor` finds: one finding for each part that it examined."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part; `fix` says what to do, and is empty when there is nothing to do."""

    part: str
    status: Literal["ok", "note", "wrong"]
    message: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """`mend` is an earlier name of `fix`, which programs may still read."""
        return {**asdict(self), "mend": self.fix}


def ok(part: str, message: str) -> Finding:
    return Finding(part, "ok", message)


def note(part: str, message: str, fix: str = "") -> Finding:
    return Finding(part, "note", message, fix)


def wrong(part: str, message: str, fix: str) -> Finding:
    return Finding(part, "wrong", message, fix)
