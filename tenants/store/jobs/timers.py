"""What the passing of time does to jobs. Running steps end at the deadline by themselves; the rest is ended here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, exists, or_, select, update

from ...database.columns import db_now
from ...database.models import Job, Step
from ..dispatch import Dispatch
from ..events import NewEvent, record
from . import finish as endings
from . import read as job_store

jobs, steps = Job.__table__, Step.__table__


def _due() -> ColumnElement[bool]:
    return and_(jobs.c.status == "scheduled", jobs.c.run_at <= db_now())


def _expired() -> ColumnElement[bool]:
    return and_(
        jobs.c.expires_at.is_not(None),
        jobs.c.started_at.is_(None),
        jobs.c.finished_at.is_(None),
        jobs.c.expires_at <= db_now(),
    )


def _overdue() -> ColumnElement[bool]:
    return and_(jobs.c.deadline_at.is_not(None), jobs.c.finished_at.is_(None), jobs.c.deadline_at <= db_now())


def anything_due(connection: Connection) -> bool:
    """One cheap look, so that an idle installation takes no write lock each second."""
    statement = select(or_(exists().where(_due()), exists().where(_expired()), exists().where(_overdue())))
    return bool(connection.execute(statement).scalar_one())


def queue_due_jobs(connection: Connection, *, limit: int) -> int:
    """Scheduled jobs whose time has come become `queued`, or await approval when their first step does."""
    due = select(jobs.c.id).where(_due()).order_by(jobs.c.run_at).limit(limit)
    awaits = exists().where(steps.c.job_id == jobs.c.id, steps.c.status == "awaiting_approval")
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(due), jobs.c.status == "scheduled")
        .values(status=case((awaits, "awaiting_approval"), else_="queued"))
        .returning(jobs.c.id, jobs.c.account, jobs.c.status)
    ).all()
    record(connection, *(NewEvent(row.account, row.id, "status", {"status": row.status}) for row in rows))
    return len(rows)


def expire_jobs(connection: Connection, *, limit: int) -> list[Dispatch]:
    """End jobs that did not start in time; gives back the messages to take out of Redis."""
    withdrawn: list[Dispatch] = []
    for job in _locked(connection, _expired(), limit):
        withdrawn += _waiting(connection, job["id"])
        endings.end(connection, job, "expired")
    return withdrawn


def end_at_deadline(connection: Connection, *, limit: int) -> list[Dispatch]:
    """End jobs whose deadline has passed and of which no step runs (one that runs is ended by its own time limit)."""
    withdrawn: list[Dispatch] = []
    running = exists().where(steps.c.job_id == jobs.c.id, steps.c.status == "running")
    for job in _locked(connection, and_(_overdue(), ~running), limit):
        withdrawn += _waiting(connection, job["id"])
        endings.end_at_deadline(connection, job, job["current_step"] or "")
    return withdrawn


def _locked(connection: Connection, condition: ColumnElement[bool], limit: int) -> Sequence[RowMapping]:
    statement = select(jobs).where(condition).limit(limit).with_for_update(skip_locked=True)
    return connection.execute(statement).mappings().all()


def _waiting(connection: Connection, job_id: str) -> list[Dispatch]:
    return [
        Dispatch.of(step)
        for step in job_store.fetch_steps(connection, job_id)
        if step["status"] in ("queued", "retrying")
    ]
