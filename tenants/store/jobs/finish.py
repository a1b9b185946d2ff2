"""How a job ends, whoever ends it, and how one that ended goes on.

Invariant: only an unfinished job ends; a second end changes nothing, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, update

from ...database.columns import db_now
from ...database.models import Job, Step
from ..dispatch import Dispatch
from ..events import NewEvent, record
from . import unknown_outcomes, webhook_deliveries

jobs, steps = Job.__table__, Step.__table__


def end(
    connection: Connection,
    job: Mapping[Any, Any],
    status: str,
    *,
    error: dict[str, Any] | None = None,
    failed_step: str | None = None,
    result: dict[str, Any] | None = None,
) -> bool:
    """End an unfinished job; False when it had ended already.

    Steps that will not run any more become `cancelled` when the job is cancelled or expired; after a failure they stay
    `pending`, because a retry goes on with them.
    """
    changed = (
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job["id"], jobs.c.finished_at.is_(None))
            .values(
                status=status,
                finished_at=db_now(),
                error=error,
                failed_step=failed_step,
                result=result,
                current_step=None,
            )
            .returning(jobs.c.id, jobs.c.account, jobs.c.status, jobs.c.callback_url)
        )
        .mappings()
        .one_or_none()
    )
    if changed is None:
        return False
    if status in ("cancelled", "expired", "timed_out"):
        connection.execute(
            update(steps)
            .where(
                steps.c.job_id == job["id"],
                steps.c.status.in_(("pending", "queued", "retrying", "awaiting_approval")),
            )
            .values(status="cancelled", finished_at=db_now(), due_at=None)
        )
    if status in (
        "cancelled",
        "timed_out",
    ):  # the target may still settle a publish; `finish_steps` handles others
        unknown_outcomes.mark_unknown(connection, [job["id"]], f"the job was ended as {status} before anybody looked")
    record(connection, NewEvent(job["account"], job["id"], "status", {"status": status}))
    # Nothing is sent here: the caller may still write, and the dispatcher loop finds the delivery within a second.
    webhook_deliveries.enqueue(connection, [changed])
    return True


def deadline_error(step: str) -> dict[str, Any]:
    """The error of a job, or of the step that ran, when the deadline passed."""
    return {"code": "deadline_passed", "message": f"the job's deadline passed at step {step!r}"}


def end_at_deadline(connection: Connection, job: Mapping[Any, Any], step: str) -> None:
    """End a job whose deadline has passed."""
    end(connection, job, "timed_out", error={**deadline_error(step), "step": step}, failed_step=step)


def request_cancel(connection: Connection, job_id: str) -> None:
    """Write down that the job is to be cancelled; the worker that runs its step sees it within a second."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=db_now())
    )


def reopen(
    connection: Connection,
    job: Mapping[Any, Any],
    step: Mapping[Any, Any],
    *,
    delay_seconds: float = 0.0,
    awaits_approval: bool = False,
) -> Dispatch:
    """Let a job that ended go on from `step`, which is queued anew, to start after the delay at the earliest.

    With `awaits_approval` the step waits for that instead; `approvals.resume` decides it. Finished steps keep their
    outputs.
    Attempts are counted from zero again; the attempts made so far stay in the record.
    """
    status = "awaiting_approval" if awaits_approval else "queued"
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job["id"])
        .values(
            status=status,
            finished_at=None,
            error=None,
            failed_step=None,
            result=None,
            cancel_requested_at=None,
            expires_at=None,
            deadline_at=None if job["deadline_seconds"] is None else db_now(job["deadline_seconds"]),
            current_step=step["name"],
        )
    )
    connection.execute(
        update(steps)
        .where(and_(steps.c.job_id == job["id"], steps.c.position > step["position"]))
        .values(status="pending", error=None, finished_at=None, attempt=0, lost=0)
    )
    row = (
        connection.execute(
            update(steps)
            .where(steps.c.id == step["id"])
            .values(
                status=status,
                attempt=0,
                lost=0,
                error=None,
                finished_at=None,
                due_at=db_now(delay_seconds) if delay_seconds > 0 else None,
                queued_at=None if awaits_approval else db_now(),
                dispatched_at=None,
                progress=0,
                note="",
            )
            .returning(steps)
        )
        .mappings()
        .one()
    )
    record(
        connection,
        NewEvent(job["account"], job["id"], "status", {"status": status}),
        NewEvent(job["account"], job["id"], "step", {"step": step["name"], "status": status, "attempt": 0}),
    )
    return Dispatch.of(row)
