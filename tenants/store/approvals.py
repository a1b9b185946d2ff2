"""A job that awaits approval: its last step is let go, or refused together with the draft.

The caller holds the job (`jobs.lock`) and has seen that it awaits approval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, update

from ..columns import db_now
from ..models import Draft, Job, Step
from . import endings
from .dispatch import Dispatch
from .events import NewEvent, record

jobs, steps, drafts = Job.__table__, Step.__table__, Draft.__table__


def approve(connection: Connection, job: Mapping[Any, Any]) -> Dispatch:
    """Queue the step that waits; gives back what to hand to Redis."""
    row = (
        connection.execute(
            update(steps)
            .where(steps.c.job_id == job["id"], steps.c.status == "awaiting_approval")
            .values(status="queued", queued_at=db_now())
            .returning(steps)
        )
        .mappings()
        .one()
    )
    connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(status="queued"))
    record(connection, NewEvent(job["account"], job["id"], "status", {"status": "queued"}))
    return Dispatch.of(row)


def reject(connection: Connection, job: Mapping[Any, Any], reason: str | None) -> None:
    """Cancel the job, and discard its draft unless something was published of it."""
    error = {"code": "rejected", "message": reason or "the job was rejected", "step": job["current_step"]}
    endings.end(connection, job, "cancelled", error=error)
    connection.execute(
        update(drafts)
        .where(drafts.c.job_id == job["id"], drafts.c.status == "pending_publish")
        .values(status="discarded", version=drafts.c.version + 1, updated_at=db_now())
    )
