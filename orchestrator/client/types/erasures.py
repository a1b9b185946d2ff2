"""Erasures. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Literal, TypedDict


class ErasureBegun(TypedDict):
    """A requested erasure."""

    erasure_id: str


class Erasure(TypedDict):
    """An erasure: its progress, and what was removed."""

    id: str
    account: str
    status: Literal["stopping", "removing", "checking", "completed"]
    """`stopping`: running steps end; `removing`: rows and files are removed; `checking`: Redis is emptied, and all
    tables are searched; `completed`."""
    forced: bool
    requested_by: str
    """Scope and id of the key that asked for it."""
    running: int
    """Steps that still run."""
    removed: dict[str, int]
    """Rows of each table; `files`; and what Redis had after the last step ended: `redis_messages`, `redis_queues`,
    `redis_settings`."""
    remaining: int | None
    """What the last search of all tables and of Redis found of the account; 0 once it is completed, null before the
    first search."""
    created_at: str
    updated_at: str
    """When the status changed last."""
    finished_at: str | None
