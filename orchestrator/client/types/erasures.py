"""Erasures. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Literal, TypedDict


class ErasureBegun(TypedDict):
    """An erasure that was asked for."""

    erasure_id: str


class Erasure(TypedDict):
    """An erasure: how far it is, and what was removed."""

    id: str
    account: str
    status: Literal["stopping", "removing", "checking", "completed"]
    """`stopping`: what runs ends; `removing`: rows and files go; `checking`: Redis is emptied, and everything looked
    through; `completed`."""
    forced: bool
    requested_by: str
    """Scope and id of the key that asked for it."""
    running: int
    """Steps that still run."""
    removed: dict[str, int]
    """Rows of each table; `files`; and what Redis held when nothing ran any more: `redis_messages`, `redis_queues`,
    `redis_settings`."""
    remaining: int | None
    """What the last look at every table and at Redis found of the account; 0 once it is completed, null before the
    first look."""
    created_at: str
    updated_at: str
    """When the status changed last."""
    finished_at: str | None
