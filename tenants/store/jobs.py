"""Jobs read, by id and by page, and held while one is steered.

They are made in `new_jobs` and ended in `endings`; their steps' life is in `steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, or_, select

from ..errors import NotFound
from ..models import Attempt, Job, Step
from .bulk import among
from .listings import Page, newest_first

jobs, steps, attempts = Job.__table__, Step.__table__, Attempt.__table__

FINISHED = ("completed", "failed", "timed_out", "cancelled", "expired")
UNFINISHED = ("scheduled", "queued", "running", "awaiting_approval")
#: Columns that a list does not carry.
_HEAVY = ("input", "result")
_SUMMARY = [column for column in jobs.c if column.name not in _HEAVY]


def fetch(connection: Connection, job_id: str, account: str | None) -> RowMapping:
    """One job, whole. `account` None stands for an admin.

    Raises:
        NotFound: no such job, or not this account's.
    """
    return _one(connection, select(jobs), job_id, account)


def lock(connection: Connection, job_id: str, account: str | None) -> RowMapping:
    """The job, held until the transaction ends: cancel, start and approve of one job take turns by it.

    Raises:
        NotFound: no such job, or not this account's.
    """
    return _one(connection, select(jobs).with_for_update(), job_id, account)


def _one(connection: Connection, statement: Select[Any], job_id: str, account: str | None) -> RowMapping:
    statement = statement.where(jobs.c.id == job_id)
    if account is not None:
        statement = statement.where(jobs.c.account == account)
    found = connection.execute(statement).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no job {job_id!r}")
    return found


def fetch_steps(connection: Connection, job_id: str) -> Sequence[RowMapping]:
    return connection.execute(select(steps).where(steps.c.job_id == job_id).order_by(steps.c.position)).mappings().all()


def fetch_attempts(connection: Connection, job_id: str) -> Sequence[RowMapping]:
    return (
        connection.execute(select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.run_token))
        .mappings()
        .all()
    )


def has_running_step(connection: Connection, job_id: str) -> bool:
    return connection.execute(
        select(exists().where(steps.c.job_id == job_id, steps.c.status == "running"))
    ).scalar_one()


def summaries(connection: Connection, ids: Sequence[str]) -> dict[str, RowMapping]:
    """Jobs without what a list leaves out, by id."""
    if not ids:
        return {}
    found = connection.execute(select(*_SUMMARY).where(among(connection, jobs.c.id, ids))).mappings()
    return {row["id"]: row for row in found}


def step_progress(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
    """Status and progress of the jobs' steps, by job, for summaries."""
    found: dict[str, list[RowMapping]] = {}
    if job_ids:
        statement = select(steps.c.job_id, steps.c.status, steps.c.progress).where(steps.c.job_id.in_(job_ids))
        for row in connection.execute(statement).mappings():
            found.setdefault(row["job_id"], []).append(row)
    return found


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What `page` selects by; `q` is a prefix of the id, a tag or the unique key."""

    account: str | None = None
    status: str | None = None
    pipeline: str | None = None
    tag: str | None = None
    q: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    #: Also deliveries of webhooks, which nobody made.
    deliveries: bool = False


def page(connection: Connection, chosen: JobFilter, *, limit: int, cursor: str | None) -> Page:
    """Summaries, newest first.

    Raises:
        InvalidInput: the cursor is not one of ours.
    """
    statement = select(*_SUMMARY).where(*_conditions(connection, chosen))
    return newest_first(connection, statement, jobs.c.seq, limit=limit, cursor=cursor)


def _conditions(connection: Connection, chosen: JobFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if not chosen.deliveries:
        conditions.append(jobs.c.ended_job_id.is_(None))
    for column in (jobs.c.account, jobs.c.status, jobs.c.pipeline):
        value = getattr(chosen, column.name)
        if value is not None:
            conditions.append(column == value)
    if chosen.created_after is not None:
        conditions.append(jobs.c.created_at > chosen.created_after)
    if chosen.created_before is not None:
        conditions.append(jobs.c.created_at < chosen.created_before)
    if chosen.tag is not None:
        conditions.append(_has_tag(connection, chosen.tag))
    if chosen.q is not None:
        conditions.append(_starts_with(connection, chosen.q))
    return conditions


def _each_tag(connection: Connection) -> Any:
    if connection.dialect.name == "postgresql":
        return func.jsonb_array_elements_text(jobs.c.tags).table_valued("value")
    return func.json_each(jobs.c.tags).table_valued("value")


def _has_tag(connection: Connection, tag: str) -> ColumnElement[bool]:
    if connection.dialect.name == "postgresql":
        return jobs.c.tags.bool_op("@>")(func.jsonb_build_array(tag))
    each = _each_tag(connection)
    return select(1).select_from(each).where(each.c.value == tag).exists()


def _starts_with(connection: Connection, prefix: str) -> ColumnElement[bool]:
    each = _each_tag(connection)
    return or_(
        jobs.c.id.startswith(prefix, autoescape=True),
        jobs.c.unique_key.startswith(prefix, autoescape=True),
        exists(select(1).select_from(each).where(each.c.value.startswith(prefix, autoescape=True))),
    )
