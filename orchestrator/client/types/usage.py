"""Usage. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import TypedDict

from .accounts import UsageDay


class UsageTotal(TypedDict):
    """Sums over the days."""

    jobs: int
    """Jobs accepted."""
    seconds: float
    """Seconds that attempts of steps took."""
    tokens: int
    """Tokens in and out, as the models' answers reported them."""
    posts: int
    """Posts that were confirmed."""
    bytes: int
    """Bytes of stored files."""


_UsageHistory = TypedDict("_UsageHistory", {"from": str})


class UsageHistory(_UsageHistory):
    """The account's usage."""

    to: str
    items: list[UsageDay]
    """Days with usage, newest first."""
    total: UsageTotal
