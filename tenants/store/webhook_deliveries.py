"""Deliveries of webhooks: a job with a `callback_url` that ends leaves a job of the pipeline `webhook`, which calls it.

Invariant: the delivery is made by the transaction that ends the job, whoever ends it and how; so an end that was
committed is told, and one that was not is never told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, exists, or_, select, update

from ..columns import db_now
from ..models import Attempt, DeadLetter, Job, Step
from ..webhooks import LANE, MAX_ATTEMPTS, PIPELINE, STEP
from . import new_jobs
from .dispatch import Dispatch
from .new_jobs import JobPlan, StepPlan

jobs, steps, attempts, letters = Job.__table__, Step.__table__, Attempt.__table__, DeadLetter.__table__
_deliveries = jobs.alias("deliveries")

_STEPS = (StepPlan(STEP, LANE, True, MAX_ATTEMPTS),)


def enqueue(connection: Connection, ended: Sequence[Mapping[Any, Any]]) -> list[Dispatch]:
    """Make the deliveries of jobs that were ended just now; gives back what may be handed to Redis at once.

    Of each job `id account status callback_url` are looked at. They count against no quota: their jobs were admitted.
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
        made = new_jobs.insert(connection, job["account"], [(plan.id, plan)], now)
        queued += [Dispatch.of(step) for step in made[plan.id].steps]
    return queued


def ended_job(connection: Connection, delivery_id: str) -> RowMapping | None:
    """The job whose end a delivery tells; None when there is nothing to tell any more.

    A job that was let go on after its end tells its next end instead: the newest delivery alone speaks for it.
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
    """Keep with an attempt that is under way which status the receiver answered."""
    connection.execute(
        update(attempts)
        .where(attempts.c.step_id == step_id, attempts.c.run_token == run_token, attempts.c.finished_at.is_(None))
        .values(status_code=status_code)
    )


def of_job(connection: Connection, job_id: str) -> Sequence[RowMapping]:
    """The deliveries of a job, the oldest first, each with its step (`step_…`) and its open dead letter, if any."""
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
    """All tries of these deliveries, in order."""
    statement = select(attempts).where(attempts.c.job_id.in_(delivery_ids)).order_by(attempts.c.run_token)
    return connection.execute(statement).mappings().all()


def ids_of(connection: Connection, job_ids: Sequence[str]) -> Sequence[str]:
    """The deliveries of jobs that are about to be removed."""
    return connection.execute(select(jobs.c.id).where(jobs.c.ended_job_id.in_(job_ids))).scalars().all()


def is_open() -> ColumnElement[bool]:
    """Of a row of `jobs`: a delivery of it is under way, or waits as a dead letter for somebody to replay it."""
    letter = select(1).where(letters.c.job_id == _deliveries.c.id, letters.c.resolution.is_(None))
    return exists().where(
        _deliveries.c.ended_job_id == jobs.c.id, or_(_deliveries.c.finished_at.is_(None), letter.exists())
    )
