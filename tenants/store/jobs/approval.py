"""Approval of a job's last step: it starts only after the current text of the job's draft was approved.

Invariants
- `jobs.approved_version` names what was approved: a `content_version` of the job's draft, or `NO_DRAFT` when the job
  had none. An edit raises `content_version`, so an approval never covers a later text.
- Every statement that would queue the last step, start it or publish checks `is_missing`: the start (`start_steps`), an
  attempt that waits for its next try (`finish_steps`), a job that is resumed (`resume`), and the write of `started`
  (`publications`).
- A `discarded` draft is not published: its job has ended, and `resume` reverts the rejection before the job can wait
  for approval again.

Rows are locked in the order job, step, draft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from ...database.columns import db_now
from ...database.models import Draft, Job, Step
from ...errors import StaleVersion
from ..dispatch import Dispatch
from ..events import NewEvent, record
from . import finish as endings

jobs, steps, drafts = Job.__table__, Step.__table__, Draft.__table__

#: `approved_version` of a job that had no draft; drafts count from 1.
NO_DRAFT = 0


def is_missing(connection: Connection, job_id: str) -> bool:
    """Whether the job needs an approval, and the current text of its draft has none."""
    statement = (
        select(jobs.c.approval, _is_given().label("given"))
        .join(drafts, drafts.c.job_id == jobs.c.id, isouter=True)
        .where(jobs.c.id == job_id)
    )
    row = connection.execute(statement).one_or_none()
    return row is None or (row.approval and not row.given)


def _is_given() -> ColumnElement[bool]:
    return and_(
        func.coalesce(jobs.c.approved_version, -1) == func.coalesce(drafts.c.content_version, NO_DRAFT),
        func.coalesce(drafts.c.status, "") != "discarded",
    )


def approve(connection: Connection, job: Mapping[Any, Any], *, version: int | None = None) -> Dispatch:
    """Queue the waiting step, and return its dispatch. The caller has locked the job, which awaits approval.

    `version`: of the draft that the caller has read; None approves the current one.

    Raises:
        StaleVersion: the draft has another version, or there is none.
    """
    statement = select(drafts.c.version, drafts.c.content_version).where(drafts.c.job_id == job["id"]).with_for_update()
    draft = connection.execute(statement).one_or_none()
    if version is not None and (draft is None or draft.version != version):
        now = "it has no draft" if draft is None else f"its draft is at version {draft.version} now"
        raise StaleVersion(f"job {job['id']} was not approved: {now}, not at version {version}; read it again")
    queue = (
        update(steps)
        .where(steps.c.job_id == job["id"], steps.c.status == "awaiting_approval")
        # An edit may have withdrawn its message from Redis after an earlier approval: then it is sent again.
        .values(status="queued", queued_at=db_now(), dispatched_at=None, due_at=None, attempt=0, lost=0)
    )
    row = connection.execute(queue.returning(steps)).mappings().one()
    approved = NO_DRAFT if draft is None else draft.content_version
    connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(status="queued", approved_version=approved))
    record(connection, NewEvent(job["account"], job["id"], "status", {"status": "queued"}))
    return Dispatch.of(row)


def reject(connection: Connection, job: Mapping[Any, Any], reason: str | None) -> None:
    """Cancel the job, and discard its draft unless it was published. The caller has locked the job."""
    error = {"code": "rejected", "message": reason or "the job was rejected", "step": job["current_step"]}
    endings.end(connection, job, "cancelled", error=error)
    connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(approved_version=None))
    connection.execute(
        update(drafts)
        .where(drafts.c.job_id == job["id"], drafts.c.status == "pending_publish")
        .values(status="discarded", version=drafts.c.version + 1, updated_at=db_now())
    )


def resume(
    connection: Connection,
    job: Mapping[Any, Any],
    step: Mapping[Any, Any],
    *,
    is_last: bool,
    delay_seconds: float = 0.0,
) -> Dispatch | None:
    """Resume an ended job, which the caller has locked, at `step`; None when that awaits approval, as the last step.

    This reverts a rejection: the draft is `pending_publish` again, and not approved.
    """
    connection.execute(
        update(drafts)
        .where(drafts.c.job_id == job["id"], drafts.c.status == "discarded")
        .values(status="pending_publish", version=drafts.c.version + 1, updated_at=db_now())
    )
    if not is_last or not is_missing(connection, job["id"]):
        return endings.reopen(connection, job, step, delay_seconds=delay_seconds)
    endings.reopen(connection, job, step, awaits_approval=True)
    return None


def await_approval(connection: Connection, job: Mapping[Any, Any], step: Mapping[Any, Any]) -> Dispatch:
    """Make a waiting last step await approval, and return the message to withdraw. The caller has locked the job."""
    connection.execute(
        update(steps)
        .where(steps.c.id == step["id"], steps.c.status.in_(("queued", "retrying")))
        .values(status="awaiting_approval", due_at=None)
    )
    connection.execute(
        update(jobs).where(jobs.c.id == job["id"]).values(status="awaiting_approval", current_step=step["name"])
    )
    happened = {"step": step["name"], "status": "awaiting_approval", "attempt": step["attempt"]}
    record(
        connection,
        NewEvent(job["account"], job["id"], "step", happened),
        NewEvent(job["account"], job["id"], "status", {"status": "awaiting_approval"}),
    )
    return Dispatch.of(step)


def draft_was_edited(connection: Connection, job: Mapping[Any, Any]) -> list[Dispatch]:
    """Make a waiting last step await approval again, after its draft was edited. The caller has locked the job.

    Returns the messages to withdraw from Redis. A running last step is refused when it writes `started`.
    """
    if not job["approval"] or job["finished_at"] is not None or not is_missing(connection, job["id"]):
        return []
    statement = select(steps).where(steps.c.job_id == job["id"]).order_by(steps.c.position.desc()).limit(1)
    last = connection.execute(statement).mappings().one()
    return [await_approval(connection, job, last)] if last["status"] in ("queued", "retrying") else []
