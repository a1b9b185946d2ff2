"""Schedules. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Overlap = Literal["queue", "skip", "replace"]
CatchUp = Literal["none", "one", "all"]


class Spread(TypedDict):
    """Fires at random times of each day."""

    per_day: int
    window: list[str]
    min_gap: float


class ScheduleSummary(TypedDict):
    """A schedule in a list."""

    id: str
    account: str
    name: str
    pipeline: str
    cron: str | None
    every: float | None
    at: list[str] | None
    spread: Spread | None
    inputs_left: int | None
    """How many of `inputs` are left; null without `inputs`."""
    timezone: str
    jitter: float
    approval: bool
    callback_url: str | None
    priority: int
    tags: list[str]
    overlap: Overlap
    catch_up: CatchUp
    starts_at: str
    ends_at: str | None
    enabled: bool
    next_fire_at: str | None
    """Null if it is off or has no more fires."""
    last_fire_at: str | None
    """When it last created a job."""
    created_at: str
    updated_at: str


class Schedule(ScheduleSummary):
    """A schedule."""

    input: dict[str, Any]
    inputs: list[dict[str, Any]] | None


class FireError(TypedDict):
    """Why a fire's job was refused."""

    code: str
    message: str


class Fire(TypedDict):
    """The result of one fire of a schedule."""

    fire_at: str
    outcome: Literal["fired", "skipped", "missed", "refused"]
    job_id: str | None
    error: FireError | None
    created_at: str
