"""Cancelling all jobs that wait on a tenant queue, in batches."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from ...database.columns import db_now
from ...database.models import Job, Step
from ..bulk import among
from ..events import NewEvent, record
from ..states import WAITING
from . import unknown_outcomes, webhook_deliveries

steps, jobs = Step.__table__, Job.__table__


def cancel_waiting(connection: Connection, lane: str, account: str, *, limit: int) -> Sequence[str]:
    """Cancel up to `limit` jobs whose step waits on the queue; returns their ids, none when none waits.

    The jobs are locked first, as a start does: a step that is about to start is waited for, and then left alone.
    """
    waiting = (
        select(steps.c.job_id)
        .where(steps.c.lane == lane, steps.c.account == account, WAITING)
        .order_by(steps.c.priority, steps.c.sequence)
        .limit(limit)
    )
    found = connection.execute(waiting).scalars().all()
    locked = select(jobs.c.id).where(among(connection, jobs.c.id, found), jobs.c.finished_at.is_(None))
    held = connection.execute(locked.order_by(jobs.c.seq).with_for_update()).scalars().all()
    if not held:
        return []
    cancel_steps = (
        update(steps)
        .where(among(connection, steps.c.job_id, held), steps.c.lane == lane, WAITING)
        .values(status="cancelled", finished_at=db_now(), due_at=None)
    )
    ended = connection.execute(cancel_steps.returning(steps.c.job_id)).scalars().all()
    if not ended:
        return []
    connection.execute(
        update(steps)
        .where(steps.c.job_id.in_(ended), steps.c.status.in_(("pending", "awaiting_approval")))
        .values(status="cancelled", finished_at=db_now())
    )
    cancelled = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(ended), jobs.c.finished_at.is_(None))
        .values(status="cancelled", finished_at=db_now(), cancel_requested_at=db_now(), current_step=None)
        .returning(jobs.c.id, jobs.c.account, jobs.c.status, jobs.c.callback_url)
    )
    unknown_outcomes.mark_unknown(connection, ended, "the job was cancelled before the target was checked")
    webhook_deliveries.enqueue(connection, cancelled.mappings().all())
    record(connection, *(NewEvent(account, job_id, "status", {"status": "cancelled"}) for job_id in ended))
    return ended
