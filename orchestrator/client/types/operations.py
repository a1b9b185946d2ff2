"""Operations. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Violation(TypedDict):
    """An invariant that did not hold, and that was repaired."""

    lane: str
    kind: str
    account: str | None
    detail: str


class Checked(TypedDict):
    """What a check of every tenant queue and lease found."""

    lanes: list[str]
    """The lanes that were checked."""
    violations: int
    """How many invariants did not hold."""
    items: list[Violation]
    """The first 100 of them."""


class Reconciled(TypedDict):
    """The differences that were found and repaired."""

    requeued: int
    """Waiting steps that were missing in Redis."""
    released: int
    """Steps that were taken from dead workers."""
    orphaned: int
    """Messages in Redis without a step to run; they were removed."""


class Alive(TypedDict):
    """The process runs."""

    status: Literal["ok"]


class Parts(TypedDict):
    """The state of the parts that the service needs."""

    database: Literal["ok", "degraded", "down", "none", "unknown"]
    redis: Literal["ok", "degraded", "down", "none", "unknown"]
    workers: Literal["ok", "degraded", "down", "none", "unknown"]
    """`none`: jobs are accepted, but no worker runs them."""


class Ready(TypedDict):
    """Whether jobs are accepted, and what is wrong where something is."""

    status: Literal["ok", "degraded", "down"]
    parts: Parts
    reasons: NotRequired[dict[str, str]]
    """Why a part is `degraded`, as `word: sentence`, such as `disk_full: …`."""
