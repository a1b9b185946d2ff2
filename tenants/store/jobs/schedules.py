"""Schedules and their fires.

Invariants
- Each time of a schedule has at most one row in `fires` (a unique constraint), written in the job's transaction.
- `next_fire_at` is advanced only from the value that was read, so two control planes cannot both advance it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from ...database.columns import db_now
from ...database.models import Fire, Job, Schedule
from ...errors import NotFound
from ..accounts.accounts import ensure_account
from ..listings import Page, fetch_one, narrow, read_page

schedules, fires, jobs = Schedule.__table__, Fire.__table__, Job.__table__

#: A list of inputs may be large: `inputs_of` reads it where it is needed.
_WITHOUT_INPUTS = [column for column in schedules.c if column.name != "inputs"]
_SUMMARY = [column for column in _WITHOUT_INPUTS if column.name != "input"]


def create(connection: Connection, values: Mapping[str, Any]) -> RowMapping:
    """Insert a schedule, and its account if that does not exist."""
    ensure_account(connection, values["account"])
    statement = insert(schedules).values(**values, created_at=db_now(), updated_at=db_now()).returning(schedules)
    return connection.execute(statement).mappings().one()


def now(connection: Connection) -> datetime:
    """The database's time."""
    return connection.execute(select(db_now())).scalar_one()


def fetch(connection: Connection, schedule_id: str, account: str | None) -> RowMapping:
    """One schedule, whole. `account` None stands for an admin.

    Raises:
        NotFound: no such schedule, or not this account's.
    """
    return fetch_one(connection, _of(schedule_id, account), f"there is no schedule {schedule_id!r}")


def lock(connection: Connection, schedule_id: str, account: str | None) -> RowMapping:
    """As `fetch`, with a lock: it is not changed or fired elsewhere before this transaction ends.

    Raises:
        NotFound: as `fetch`.
    """
    statement = _of(schedule_id, account).with_for_update()
    return fetch_one(connection, statement, f"there is no schedule {schedule_id!r}")


def _of(schedule_id: str, account: str | None) -> Select[Any]:
    return narrow(select(schedules), (schedules.c.id, schedule_id), (schedules.c.account, account))


def page(connection: Connection, *, account: str | None, limit: int, cursor: str | None) -> Page:
    """Schedules without their inputs, newest first; `account` None: of all accounts."""
    statement = narrow(select(*_SUMMARY), (schedules.c.account, account))
    return read_page(connection, statement, schedules.c.seq, limit=limit, cursor=cursor)


def change(connection: Connection, schedule_id: str, values: Mapping[str, Any]) -> RowMapping:
    """Set these columns of a locked schedule."""
    statement = update(schedules).where(schedules.c.id == schedule_id).values(**values, updated_at=db_now())
    return connection.execute(statement.returning(schedules)).mappings().one()


def remove(connection: Connection, schedule_id: str, account: str | None) -> None:
    """Remove a schedule and its fires; its jobs stay.

    Raises:
        NotFound: as `fetch`.
    """
    statement = delete(schedules).where(schedules.c.id == schedule_id)
    if account is not None:
        statement = statement.where(schedules.c.account == account)
    if not connection.execute(statement).rowcount:
        raise NotFound(f"there is no schedule {schedule_id!r}")


# --- firing --------------------------------------------------------------------------------------------------------


def earliest(connection: Connection) -> tuple[datetime, datetime | None]:
    """The database's time, and the first time that any schedule is due; one index look-up."""
    first = select(func.min(schedules.c.next_fire_at)).where(schedules.c.next_fire_at.is_not(None))
    return now(connection), connection.execute(first).scalar_one()


def take_due(connection: Connection, moment: datetime, *, limit: int) -> Sequence[RowMapping]:
    """Lock schedules that are due at `moment`, the longest due first, without `inputs`; skips locked ones.

    `moment` is a parameter, because PostgreSQL uses no index for a volatile clock function.
    """
    statement = (
        select(*_WITHOUT_INPUTS)
        .where(schedules.c.next_fire_at.is_not(None), schedules.c.next_fire_at <= moment)
        .order_by(schedules.c.next_fire_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def inputs_of(connection: Connection, schedule_id: str) -> list[dict[str, Any]]:
    """The schedule's list of inputs; empty where it has none."""
    return connection.execute(select(schedules.c.inputs).where(schedules.c.id == schedule_id)).scalar_one() or []


def unfinished_jobs(connection: Connection, schedule_id: str) -> list[str]:
    """Jobs of the schedule that have not ended, oldest first. Ended ones are marked, and not read again."""
    known = (
        select(fires.c.seq, fires.c.job_id, jobs.c.id.label("found"))
        .outerjoin(jobs, (jobs.c.id == fires.c.job_id) & jobs.c.finished_at.is_(None))
        .where(fires.c.schedule_id == schedule_id, text("fires.unfinished"))  # the condition of the partial index
        .order_by(fires.c.seq)
    )
    rows = connection.execute(known).all()
    ended = [row.seq for row in rows if row.found is None]
    if ended:
        connection.execute(update(fires).where(fires.c.seq.in_(ended)).values(unfinished=False))
    return [row.job_id for row in rows if row.found is not None]


def record_fire(
    connection: Connection,
    schedule: Mapping[Any, Any],
    fire_at: datetime,
    outcome: str,
    *,
    job_id: str | None = None,
    error: Mapping[str, Any] | None = None,
) -> bool:
    """Record the outcome of a schedule's time; False when the time has a record."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(fires).values(
        schedule_id=schedule["id"],
        account=schedule["account"],
        fire_at=fire_at,
        outcome=outcome,
        job_id=job_id,
        error=dict(error) if error is not None else None,
        unfinished=job_id is not None,
        created_at=db_now(),
    )
    return bool(connection.execute(statement.on_conflict_do_nothing().returning(fires.c.seq)).scalar_one_or_none())


def advance(
    connection: Connection,
    schedule: Mapping[Any, Any],
    following: datetime | None,
    *,
    fired_at: datetime | None,
    took_input: bool,
) -> bool:
    """Set the following time; False when another control plane did so meanwhile."""
    values: dict[str, Any] = {"next_fire_at": following}
    if fired_at is not None:
        values["last_fire_at"] = fired_at
    if took_input:
        values["inputs_taken"] = schedules.c.inputs_taken + 1
    statement = update(schedules).where(
        schedules.c.id == schedule["id"], schedules.c.next_fire_at == schedule["next_fire_at"]
    )
    return connection.execute(statement.values(**values)).rowcount == 1


def stop(connection: Connection, schedule: Mapping[Any, Any], error: Mapping[str, Any]) -> None:
    """Turn a due schedule off, because its following times cannot be computed."""
    record_fire(connection, schedule, schedule["next_fire_at"], "refused", error=error)
    statement = update(schedules).where(schedules.c.id == schedule["id"])
    connection.execute(statement.values(enabled=False, next_fire_at=None, updated_at=db_now()))


def fires_page(connection: Connection, schedule_id: str, *, limit: int, cursor: str | None) -> Page:
    """A schedule's fires, newest first."""
    statement = select(fires).where(fires.c.schedule_id == schedule_id)
    return read_page(connection, statement, fires.c.seq, limit=limit, cursor=cursor)


def remove_old_fires(connection: Connection, age_seconds: float, *, limit: int) -> int:
    """Remove up to `limit` fires older than that whose job has ended or is gone; returns how many."""
    before = now(connection) - timedelta(seconds=age_seconds)
    unfinished = select(1).where(jobs.c.id == fires.c.job_id, jobs.c.finished_at.is_(None)).exists()
    old = select(fires.c.seq).where(fires.c.created_at < before, ~unfinished).order_by(fires.c.created_at).limit(limit)
    return connection.execute(delete(fires).where(fires.c.seq.in_(old))).rowcount
