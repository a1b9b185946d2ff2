"""Making jobs with their steps, all or none, held against the account's status, limits and quota.

Invariants
- What is counted against a quota is counted in the transaction that makes the jobs.
- A limit that is checked and then acted upon holds exactly, however many callers come at one moment: an account that
  has one is locked until the jobs are committed. The others are not locked: making a job stays one round trip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Row, bindparam, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from ..account import AccountLimits
from ..columns import db_now
from ..errors import AccountDraining, AccountSuspended, QueueFull, QuotaExhausted
from ..models import Account, Job, Step, Usage, new_id
from .accounts import ensure_account, refuse_during_erasure
from .bulk import insert_rows
from .dispatch import Dispatch
from .events import NewEvent, record
from .jobs import summaries

accounts, jobs, steps, usage = Account.__table__, Job.__table__, Step.__table__, Usage.__table__


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step as the pipeline declares it now; a job keeps what it was made with."""

    name: str
    lane: str
    required: bool
    max_attempts: int


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job that is about to be made; the input is validated already. Durations are in seconds."""

    pipeline: str
    input: dict[str, Any]
    steps: tuple[StepPlan, ...]
    priority: int = 5
    run_at: datetime | None = None
    delay: float = 0.0
    expires_in: float | None = None
    deadline: float | None = None
    approval: bool = False
    unique_key: str | None = None
    callback_url: str | None = None
    tags: tuple[str, ...] = ()
    #: Of a webhook's delivery: the job whose end it tells.
    ended_job_id: str | None = None
    #: Chosen before the transaction, so that a caller who does not know what became of it can ask, or repeat it.
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class JobRows:
    """A job that was made just now and its steps, with every column, as a reader would find them."""

    job: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Made:
    """What `create` did: the id of each job in order, those that are new, and what to hand to Redis."""

    ids: tuple[str, ...]
    created: frozenset[str]
    queued: tuple[Dispatch, ...]
    #: The new jobs by id, so that nobody has to read them back; empty when an earlier transaction made them.
    rows: Mapping[str, JobRows] = field(default_factory=dict)


_given = select(literal(1).label("one")).subquery()
#: The database's time, and the account with it where there is one.
_LOOK = select(db_now().label("now"), accounts.c.status, accounts.c.limits).select_from(
    _given.outerjoin(accounts, accounts.c.id == bindparam("its_account"))
)
#: Every column of a new job or step that nobody named.
BLANK_JOB, BLANK_STEP = dict.fromkeys(jobs.c.keys()), dict.fromkeys(steps.c.keys())
_NO_USAGE = {"seconds": 0.0, "tokens": 0, "posts": 0, "bytes": 0}


def create(connection: Connection, account: str, plans: Sequence[JobPlan], *, again: bool = False) -> Made:
    """Make jobs with their steps, all or none; the first step of each is queued (or awaits approval).

    `again`: the same plans may have been made by a transaction whose answer was lost; then that is what was made, and
    the dispatcher loop sends it.

    Raises:
        AccountDraining, AccountSuspended, QueueFull, QuotaExhausted: nothing was made.
        AccountBusy: the account is being erased; nothing was made.
        IntegrityError: somebody else made a `unique_key` at this moment, or the lost transaction took effect just now.
    """
    if again and (landed := _made_before(connection, account, plans)) is not None:
        return landed
    look = connection.execute(_LOOK, {"its_account": account}).one()
    taken = _taken_unique_keys(connection, account, plans)
    fresh: list[tuple[str, JobPlan]] = []
    ids: list[str] = []
    for plan in plans:
        existing = taken.get((plan.pipeline, plan.unique_key)) if plan.unique_key is not None else None
        if existing is None:
            existing = plan.id
            fresh.append((existing, plan))
            if plan.unique_key is not None:
                taken[plan.pipeline, plan.unique_key] = existing
        ids.append(existing)
    if not fresh:
        return Made(tuple(ids), frozenset(), ())
    _admit(connection, account, len(fresh), look)
    rows = insert(connection, account, fresh, look.now)
    queued = [Dispatch.of(step) for made in rows.values() for step in made.steps if step["status"] == "queued"]
    return Made(tuple(ids), frozenset(rows), tuple(queued), rows)


def _made_before(connection: Connection, account: str, plans: Sequence[JobPlan]) -> Made | None:
    present = frozenset(summaries(connection, [plan.id for plan in plans]))
    if not present:
        return None
    taken = _taken_unique_keys(connection, account, plans)
    taken |= {(plan.pipeline, plan.unique_key): plan.id for plan in plans if plan.id in present}
    ids = [plan.id if plan.id in present else taken[plan.pipeline, plan.unique_key] for plan in plans]
    return Made(tuple(ids), present, ())


def _taken_unique_keys(
    connection: Connection, account: str, plans: Sequence[JobPlan]
) -> dict[tuple[str, str | None], str]:
    keys = {plan.unique_key for plan in plans if plan.unique_key is not None}
    if not keys:
        return {}
    rows = connection.execute(
        select(jobs.c.pipeline, jobs.c.unique_key, jobs.c.id).where(
            jobs.c.account == account, jobs.c.unique_key.in_(keys), jobs.c.finished_at.is_(None)
        )
    )
    return {(row.pipeline, row.unique_key): row.id for row in rows}


def _admit(connection: Connection, account: str, count: int, look: Row[Any]) -> None:
    """Hold the account against its status and limits, and count the jobs in today's usage."""
    status, limits = look.status, AccountLimits.from_json(look.limits)
    if status is None or limits.max_waiting is not None or limits.daily_quota is not None:
        status, limits = _lock(connection, account)
    if status == "draining":
        raise AccountDraining(f"account {account!r} is draining: it takes no new jobs until it is resumed")
    if status == "suspended":
        refuse_during_erasure(connection, account)
        raise AccountSuspended(f"account {account!r} is suspended: it takes no new jobs until it is resumed")
    # First the row of today's usage, which everybody writes who makes jobs of the account, with limits or without: a
    # job made just before the account got its limit is committed by then, and is counted below.
    accepted = _count_usage(connection, account, count, look.now)
    if limits.max_waiting is not None:
        waiting = connection.execute(
            select(func.count()).where(
                jobs.c.account == account,
                jobs.c.finished_at.is_(None),
                jobs.c.started_at.is_(None),
                jobs.c.ended_job_id.is_(None),
            )
        ).scalar_one()
        if waiting + count > limits.max_waiting:
            raise QueueFull(
                f"account {account!r} has {waiting} jobs waiting and may have {limits.max_waiting}; "
                f"{count} more do not fit",
                retry_after=5.0,
            )
    if limits.daily_quota is not None and accepted > limits.daily_quota:
        now = look.now.astimezone(UTC)
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), tzinfo=UTC)
        raise QuotaExhausted(
            f"account {account!r} may have {limits.daily_quota} jobs accepted in a UTC day; {accepted - count} were "
            f"accepted today and {count} more do not fit",
            retry_after=(midnight - now).total_seconds(),
        )


def _lock(connection: Connection, account: str) -> tuple[str, AccountLimits]:
    """Lock the account, which comes into being with this, and read it anew. It stays readable, also for starts."""
    statement = select(accounts.c.status, accounts.c.limits).where(accounts.c.id == account)
    locked = statement.with_for_update(key_share=True)
    row = connection.execute(locked).one_or_none()
    if row is None:
        ensure_account(connection, account)
        row = connection.execute(locked).one()
    return row.status, AccountLimits.from_json(row.limits)


def _count_usage(connection: Connection, account: str, count: int, now: datetime) -> int:
    """Count the jobs in today's usage; how many were accepted today, with these."""
    day = now.astimezone(UTC).date().isoformat()
    added = {"account": account, "day": day, "jobs": count, **_NO_USAGE}
    return int(connection.execute(_count(connection.dialect.name), added).scalar_one())


@cache
def _count(dialect: str) -> Insert:
    statement = postgresql.insert(usage) if dialect == "postgresql" else sqlite.insert(usage)
    return statement.on_conflict_do_update(
        index_elements=["account", "day"], set_={"jobs": usage.c.jobs + statement.excluded.jobs}
    ).returning(usage.c.jobs)


def insert(
    connection: Connection, account: str, fresh: Sequence[tuple[str, JobPlan]], now: datetime
) -> dict[str, JobRows]:
    """Insert jobs of an account that exists, with their steps, by id; nothing is refused or counted here."""
    job_rows = [job_row(account, job_id, plan, now) for job_id, plan in fresh]
    sequence: dict[str, int] = dict(insert_rows(connection, jobs, job_rows, returning=("id", "seq")))  # type: ignore[arg-type]
    made: dict[str, JobRows] = {}
    step_rows: list[dict[str, Any]] = []
    for (job_id, plan), row in zip(fresh, job_rows, strict=True):
        own = [
            step_row(account, job_id, plan, position, sequence[job_id], row["run_at"], now)
            for position in range(len(plan.steps))
        ]
        step_rows += own
        made[job_id] = JobRows({**BLANK_JOB, **row, "seq": sequence[job_id]}, [{**BLANK_STEP, **step} for step in own])
    insert_rows(connection, steps, step_rows)
    record(connection, *(NewEvent(account, row["id"], "status", {"status": row["status"]}) for row in job_rows))
    return made


def job_row(account: str, job_id: str, plan: JobPlan, now: datetime) -> dict[str, Any]:
    """The row of a new job, as it is made at that time."""
    run_at = (max(now, plan.run_at or now) + timedelta(seconds=plan.delay)).astimezone(UTC)
    waits = run_at > now
    status = "scheduled" if waits else "queued"
    if not waits and _awaits_approval(plan, 0):
        status = "awaiting_approval"
    return {
        "id": job_id,
        "account": account,
        "pipeline": plan.pipeline,
        "status": status,
        "priority": plan.priority,
        "input": plan.input,
        "approval": plan.approval,
        "run_at": run_at,
        "created_at": now,
        "expires_at": None if plan.expires_in is None else run_at + timedelta(seconds=plan.expires_in),
        "deadline_seconds": plan.deadline,
        "unique_key": plan.unique_key,
        "tags": list(plan.tags),
        "callback_url": plan.callback_url,
        "ended_job_id": plan.ended_job_id,
    }


def _awaits_approval(plan: JobPlan, position: int) -> bool:
    return plan.approval and position == len(plan.steps) - 1


def step_row(
    account: str, job_id: str, plan: JobPlan, position: int, sequence: int, run_at: datetime, now: datetime
) -> dict[str, Any]:
    """The row of one of its steps; the first is queued, or awaits approval."""
    step, first = plan.steps[position], position == 0
    status = "pending"
    if first:
        status = "awaiting_approval" if _awaits_approval(plan, position) else "queued"
    return {
        "id": new_id(),
        "job_id": job_id,
        "account": account,
        "pipeline": plan.pipeline,
        "position": position,
        "name": step.name,
        "lane": step.lane,
        "status": status,
        "required": step.required,
        "priority": plan.priority,
        "sequence": sequence,
        "attempt": 0,
        "max_attempts": step.max_attempts,
        "lost": 0,
        "run_token": 0,
        "progress": 0,
        "note": "",
        "due_at": run_at if first and run_at > now else None,
        "queued_at": now if status == "queued" else None,
    }
