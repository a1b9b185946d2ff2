"""Jobs read by id, and held while one is steered.

They are created in `create_jobs`, listed in `job_lists` and ended in `endings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, exists, select

from ...database.models import Attempt, Job, Step
from ...errors import NotFound
from ..bulk import among

jobs, steps, attempts = Job.__table__, Step.__table__, Attempt.__table__

FINISHED = ("completed", "failed", "timed_out", "cancelled", "expired")
UNFINISHED = ("scheduled", "queued", "running", "awaiting_approval")
#: Columns that a list does not carry.
_HEAVY = ("input", "result")
SUMMARY = [column for column in jobs.c if column.name not in _HEAVY]


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
    found = connection.execute(select(*SUMMARY).where(among(connection, jobs.c.id, ids))).mappings()
    return {row["id"]: row for row in found}


def step_progress(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
    """The steps of the jobs for summaries, by job: `status`, `required` and `progress`."""
    found: dict[str, list[RowMapping]] = {}
    if job_ids:
        shown = (steps.c.job_id, steps.c.status, steps.c.required, steps.c.progress)
        statement = select(*shown).where(steps.c.job_id.in_(job_ids))
        for row in connection.execute(statement).mappings():
            found.setdefault(row["job_id"], []).append(row)
    return found
