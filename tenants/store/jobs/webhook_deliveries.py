"""Webhook deliveries: the end of a job with a `callback_url` creates a job of the pipeline `webhook`, which calls it.

Invariant: the transaction that ends the job creates the delivery, so every committed end has one, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, exists, or_, select, update

from ...database.columns import db_now
from ...database.models import Attempt, DeadLetter, Job, Step
from ...webhooks import LANE, MAX_ATTEMPTS, PIPELINE, STEP
from ..dispatch import Dispatch
from . import create as create_jobs
from .create import JobPlan, StepPlan

jobs, steps, attempts, letters = Job.__table__, Step.__table__, Attempt.__table__, DeadLetter.__table__
_deliveries = jobs.alias("deliveries")

_STEPS = (StepPlan(STEP, LANE, True, MAX_ATTEMPTS),)


def enqueue(connection: Connection, ended: Sequence[Mapping[Any, Any]]) -> list[Dispatch]:
    """Create the deliveries of jobs that this transaction ended; returns their dispatches.

    `ended` has `id account status callback_url` of each job. Deliveries count against no quota.
    """
    calls = [job for job in ended if job["callback_url"] is not None]
    if not calls:
        return []
    now = connection.execute(select(db_now())).scalar_one()
    queued: list[Dispatch] = []
    for job in calls:
        plan = JobPlan(
            pipeline=PIPELINE,
            input={"job": job["id"], "status": job["status"]},
            steps=_STEPS,
            ended_job_id=job["id"],
        )
        made = create_jobs.insert(connection, job["account"], [plan], now)
        queued += [Dispatch.of(step) for step in made[plan.id].steps]
    return queued


def ended_job(connection: Connection, delivery_id: str) -> RowMapping | None:
    """The job whose end a delivery reports; None when it is superseded.

    A job that was resumed and ended again has a newer delivery, and only the newest is sent.
    """
    newer = jobs.alias("newer")
    statement = (
        select(jobs)
        .join(_deliveries, _deliveries.c.ended_job_id == jobs.c.id)
        .where(
            _deliveries.c.id == delivery_id,
            jobs.c.account == _deliveries.c.account,
            jobs.c.finished_at.is_not(None),
            ~exists().where(newer.c.ended_job_id == jobs.c.id, newer.c.seq > _deliveries.c.seq),
        )
    )
    return connection.execute(statement).mappings().one_or_none()


def note_answer(connection: Connection, step_id: str, run_token: int, status_code: int) -> None:
    """Record the receiver's HTTP status with the running attempt."""
    connection.execute(
        update(attempts)
        .where(attempts.c.step_id == step_id, attempts.c.run_token == run_token, attempts.c.finished_at.is_(None))
        .values(status_code=status_code)
    )


def of_job(connection: Connection, job_id: str) -> Sequence[RowMapping]:
    """A job's deliveries, oldest first, each with columns of its step (`step_…`) and its open dead letter, if any."""
    letter = (
        select(letters.c.id)
        .where(letters.c.job_id == jobs.c.id, letters.c.resolution.is_(None))
        .order_by(letters.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = (
        select(
            jobs,
            steps.c.id.label("step_id"),
            steps.c.output.label("step_output"),
            steps.c.due_at.label("step_due_at"),
            letter.label("dead_letter_id"),
        )
        .join(steps, steps.c.job_id == jobs.c.id)
        .where(jobs.c.ended_job_id == job_id)
        .order_by(jobs.c.seq)
    )
    return connection.execute(statement).mappings().all()


def attempts_of(connection: Connection, delivery_ids: Sequence[str]) -> Sequence[RowMapping]:
    """All attempts of these deliveries, in order."""
    statement = select(attempts).where(attempts.c.job_id.in_(delivery_ids)).order_by(attempts.c.run_token)
    return connection.execute(statement).mappings().all()


def ids_of(connection: Connection, job_ids: Sequence[str]) -> Sequence[str]:
    """The ids of all deliveries of these jobs."""
    return connection.execute(select(jobs.c.id).where(jobs.c.ended_job_id.in_(job_ids))).scalars().all()


def is_open() -> ColumnElement[bool]:
    """Whether a row of `jobs` has a delivery that has not ended, or that has an open dead letter."""
    letter = select(1).where(letters.c.job_id == _deliveries.c.id, letters.c.resolution.is_(None))
    return exists().where(
        _deliveries.c.ended_job_id == jobs.c.id, or_(_deliveries.c.finished_at.is_(None), letter.exists())
    )
