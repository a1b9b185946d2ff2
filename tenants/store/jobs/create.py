"""Creation of jobs with their steps, all or none, within the account's status, limits and quota.

Invariants
- Jobs are counted against a quota in the transaction that creates them.
- A limit holds exactly, however many callers come at one moment: an account that has one is locked until the jobs are
  committed. Other accounts are not locked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Row, bindparam, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from ...account import AccountLimits
from ...database.columns import db_now
from ...database.models import Account, Attempt, Job, Step, Usage, new_id
from ...errors import AccountDraining, AccountSuspended, QueueFull, QuotaExhausted
from ..accounts.accounts import ensure_account, refuse_during_erasure
from ..bulk import among, insert_rows
from ..dispatch import Dispatch
from ..events import NewEvent, record

accounts, jobs, steps, usage = Account.__table__, Job.__table__, Step.__table__, Usage.__table__
attempts = Attempt.__table__


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step as the pipeline declares it now; a job keeps what it was made with."""

    name: str
    lane: str
    required: bool
    max_attempts: int


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job to create. Durations are in seconds, times are aware.

    A caller names the pipeline and its input; `orchestrator.control.jobs` validates them and adds the steps.
    """

    pipeline: str
    input: Mapping[str, Any]
    steps: tuple[StepPlan, ...] = ()
    priority: int = 5
    run_at: datetime | None = None
    delay: float | None = None
    expires_in: float | None = None
    deadline: float | None = None
    approval: bool = False
    unique_key: str | None = None
    callback_url: str | None = None
    tags: tuple[str, ...] = ()
    #: The job whose end this one reports to a webhook.
    ended_job_id: str | None = None
    #: Chosen before the transaction: after a lost answer the same ids are tried again, or read.
    id: str = field(default_factory=new_id)

    def awaits_approval(self, position: int) -> bool:
        """Whether the step at this position must be approved: the last one, if the job asks for approval."""
        return self.approval and position == len(self.steps) - 1


@dataclass(frozen=True, slots=True)
class JobRows:
    """A job with its steps and attempts, with every column."""

    job: Mapping[Any, Any]
    steps: Sequence[Mapping[Any, Any]]
    attempts: Sequence[Mapping[Any, Any]] = ()


@dataclass(frozen=True, slots=True)
class Created:
    """The jobs in the order of their plans, the ids of those that are new, and the steps to send to Redis."""

    jobs: tuple[JobRows, ...]
    new: frozenset[str]
    queued: tuple[Dispatch, ...]

    @property
    def ids(self) -> list[str]:
        return [each.job["id"] for each in self.jobs]


_given = select(literal(1).label("one")).subquery()
#: The database's time, and the account with it where there is one.
_SELECT_ACCOUNT = select(db_now().label("now"), accounts.c.status, accounts.c.limits).select_from(
    _given.outerjoin(accounts, accounts.c.id == bindparam("p_account"))
)
_NO_USAGE = {"seconds": 0.0, "tokens": 0, "posts": 0, "bytes": 0}
_NO_JOB, _NO_STEP = dict.fromkeys(jobs.c.keys()), dict.fromkeys(steps.c.keys())


def create(connection: Connection, account: str, plans: Sequence[JobPlan], *, again: bool = False) -> Created:
    """Create jobs with their steps, all or none; the first step of each is queued, or awaits approval.

    An unfinished job that has a plan's `unique_key` stands in for a new one. `again`: the same plans may have been
    committed before, and the answer was lost; then those jobs are returned, and the dispatcher loop sends their steps.

    Raises:
        AccountDraining, AccountSuspended, QueueFull, QuotaExhausted: nothing was created.
        AccountBusy: the account is being erased; nothing was created.
        IntegrityError: another caller took a `unique_key` at this moment, or the lost transaction took effect now.
    """
    if not all(plan.steps for plan in plans):
        raise ValueError("a job needs the steps of its pipeline")
    present = _present(connection, plans) if again else frozenset()
    taken = _taken_unique_keys(connection, account, plans)
    if present:
        taken |= {(plan.pipeline, plan.unique_key): plan.id for plan in plans if plan.id in present}
    fresh: list[JobPlan] = []
    ids: list[str] = []
    for plan in plans:
        key = (plan.pipeline, plan.unique_key)
        existing = taken.get(key) if plan.unique_key is not None else None
        if plan.id in present or existing is None:
            ids.append(plan.id)
        else:
            ids.append(existing)
        if plan.id not in present and existing is None:
            taken[key] = plan.id
            fresh.append(plan)
    new: dict[str, JobRows] = {}
    if fresh and not present:
        look = connection.execute(_SELECT_ACCOUNT, {"p_account": account}).one()
        _admit(connection, account, len(fresh), look)
        new = insert(connection, account, fresh, look.now)
    old = _read(connection, [each for each in ids if each not in new])
    queued = [Dispatch.of(step) for rows in new.values() for step in rows.steps if step["status"] == "queued"]
    return Created(tuple(new.get(each) or old[each] for each in ids), present or frozenset(new), tuple(queued))


def _present(connection: Connection, plans: Sequence[JobPlan]) -> frozenset[str]:
    statement = select(jobs.c.id).where(among(connection, jobs.c.id, [plan.id for plan in plans]))
    return frozenset(connection.execute(statement).scalars())


def _read(connection: Connection, ids: Sequence[str]) -> dict[str, JobRows]:
    """Jobs that exist, by id."""
    if not ids:
        return {}

    def of_jobs(table: Any, order: Any) -> dict[str, list[Mapping[Any, Any]]]:
        found: dict[str, list[Mapping[Any, Any]]] = {}
        for row in connection.execute(
            select(table).where(among(connection, table.c.job_id, ids)).order_by(order)
        ).mappings():
            found.setdefault(row["job_id"], []).append(row)
        return found

    of_steps, of_attempts = of_jobs(steps, steps.c.position), of_jobs(attempts, attempts.c.run_token)
    rows = connection.execute(select(jobs).where(among(connection, jobs.c.id, ids))).mappings()
    return {row["id"]: JobRows(row, of_steps.get(row["id"], ()), of_attempts.get(row["id"], ())) for row in rows}


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


def insert(connection: Connection, account: str, plans: Sequence[JobPlan], now: datetime) -> dict[str, JobRows]:
    """Insert jobs of an account that exists, with their steps, by id; nothing is refused or counted here."""
    job_rows = [job_row(account, plan, now) for plan in plans]
    sequence: dict[str, int] = dict(insert_rows(connection, jobs, job_rows, returning=("id", "seq")))  # type: ignore[arg-type]
    made = {plan.id: rows_of(row, plan, sequence[plan.id], now) for plan, row in zip(plans, job_rows, strict=True)}
    written = [{name: step[name] for name in _STEP_COLUMNS} for rows in made.values() for step in rows.steps]
    insert_rows(connection, steps, written)
    record(connection, *(NewEvent(account, row["id"], "status", {"status": row["status"]}) for row in job_rows))
    return made


def job_row(account: str, plan: JobPlan, now: datetime) -> dict[str, Any]:
    """The columns of a new job, which is created at that time."""
    run_at = (max(now, plan.run_at or now) + timedelta(seconds=plan.delay or 0.0)).astimezone(UTC)
    status = "scheduled"
    if run_at <= now:
        status = "awaiting_approval" if plan.awaits_approval(0) else "queued"
    return {
        "id": plan.id,
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


def rows_of(job: Mapping[str, Any], plan: JobPlan, sequence: int, now: datetime) -> JobRows:
    """A new job and its steps with every column; the first step is queued, or awaits approval."""
    own = [_step_row(job, plan, position, sequence, now) for position in range(len(plan.steps))]
    return JobRows({**_NO_JOB, **job, "seq": sequence}, own)


def _step_row(job: Mapping[str, Any], plan: JobPlan, position: int, sequence: int, now: datetime) -> dict[str, Any]:
    step, status = plan.steps[position], "pending"
    if position == 0:
        status = "awaiting_approval" if plan.awaits_approval(0) else "queued"
    return {
        **_NO_STEP,
        "id": new_id(),
        "job_id": plan.id,
        "account": job["account"],
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
        "due_at": job["run_at"] if position == 0 and job["run_at"] > now else None,
        "queued_at": now if status == "queued" else None,
    }


#: The columns of a new step that are not null.
_STEP_COLUMNS = (
    *("id", "job_id", "account", "pipeline", "position", "name", "lane", "status", "required", "priority", "sequence"),
    *("attempt", "max_attempts", "lost", "run_token", "progress", "note", "due_at", "queued_at"),
)
