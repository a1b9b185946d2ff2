"""Jobs: making them, reading them, ending them from outside. Their steps' life is in `steps`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ..account import AccountLimits
from ..columns import db_now
from ..errors import (
    AccountDraining,
    AccountSuspended,
    InvalidInput,
    NotFound,
    QueueFull,
    QuotaExhausted,
)
from ..models import Account, Attempt, Draft, Job, Step, Usage, new_id
from .events import NewEvent, record

accounts, jobs, steps = Account.__table__, Job.__table__, Step.__table__
attempts, usage, drafts = Attempt.__table__, Usage.__table__, Draft.__table__

FINISHED = ("completed", "failed", "timed_out", "cancelled", "expired")
UNFINISHED = ("scheduled", "queued", "running", "awaiting_approval")
#: Columns that a list does not carry.
_HEAVY = ("input", "result")
_SUMMARY = [column for column in jobs.c if column.name not in _HEAVY]


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
    #: Chosen before the transaction, so that a caller who does not know what became of it can ask, or repeat it.
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A step to hand to Redis: what its message, its order and its delay are made of."""

    id: str
    account: str
    pipeline: str
    name: str
    lane: str
    priority: int
    sequence: int
    due_at: datetime | None

    @classmethod
    def of(cls, row: Any) -> Dispatch:
        """From a row of `steps`, as a mapping."""
        return cls(*(row[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Made:
    """What `create` did: the id of each job in order, those that are new, and what to hand to Redis."""

    ids: tuple[str, ...]
    created: frozenset[str]
    queued: tuple[Dispatch, ...]


def _upsert(connection: Connection) -> Any:
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def ensure_account(connection: Connection, account: str) -> None:
    """The account comes into being with its first job, schedule, key, session, target, asset or limits."""
    statement = _upsert(connection)(accounts).values(
        id=account, status="active", created_at=db_now(), updated_at=db_now()
    )
    connection.execute(statement.on_conflict_do_nothing())


def create(connection: Connection, account: str, plans: Sequence[JobPlan], *, again: bool = False) -> Made:
    """Make jobs with their steps, all or none; the first step of each is queued (or awaits approval).

    `again`: the same plans may have been made by a transaction whose answer was lost; then that is what was made, and
    the dispatcher loop sends it.

    Raises:
        AccountDraining, AccountSuspended, QueueFull, QuotaExhausted: nothing was made.
        IntegrityError: somebody else made a `unique_key` at this moment, or the lost transaction took effect just now.
    """
    if again and (landed := _made_before(connection, account, plans)) is not None:
        return landed
    now = connection.execute(select(db_now())).scalar_one()
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
    _admit(connection, account, len(fresh), now)
    queued = _insert(connection, account, fresh, now)
    return Made(tuple(ids), frozenset(job_id for job_id, _ in fresh), tuple(queued))


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


def _admit(connection: Connection, account: str, count: int, now: datetime) -> None:
    """Hold the account against its status and limits, and count the jobs in today's usage."""
    found = connection.execute(
        select(accounts.c.status, accounts.c.limits).where(accounts.c.id == account)
    ).one_or_none()
    if found is None:
        ensure_account(connection, account)
    elif found.status == "draining":
        raise AccountDraining(f"account {account!r} is draining: it takes no new jobs until it is resumed")
    elif found.status == "suspended":
        raise AccountSuspended(f"account {account!r} is suspended: it takes no new jobs until it is resumed")
    limits = AccountLimits.from_json(found.limits if found else None)
    if limits.max_waiting is not None:
        waiting = connection.execute(
            select(func.count()).where(
                jobs.c.account == account, jobs.c.finished_at.is_(None), jobs.c.started_at.is_(None)
            )
        ).scalar_one()
        if waiting + count > limits.max_waiting:
            raise QueueFull(
                f"account {account!r} has {waiting} jobs waiting and may have {limits.max_waiting}; "
                f"{count} more do not fit",
                retry_after=5.0,
            )
    _count_usage(connection, account, count, limits.daily_quota, now)


def _count_usage(connection: Connection, account: str, count: int, quota: int | None, now: datetime) -> None:
    day = now.astimezone(UTC).date().isoformat()
    statement = _upsert(connection)(usage).values(
        account=account, day=day, jobs=count, seconds=0.0, tokens=0, posts=0, bytes=0
    )
    statement = statement.on_conflict_do_update(
        index_elements=["account", "day"], set_={"jobs": usage.c.jobs + statement.excluded.jobs}
    ).returning(usage.c.jobs)
    total = connection.execute(statement).scalar_one()
    if quota is not None and total > quota:
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), tzinfo=UTC)
        raise QuotaExhausted(
            f"account {account!r} may have {quota} jobs accepted in a UTC day; {total - count} were accepted today "
            f"and {count} more do not fit",
            retry_after=(midnight - now).total_seconds(),
        )


def _insert(
    connection: Connection, account: str, fresh: Sequence[tuple[str, JobPlan]], now: datetime
) -> list[Dispatch]:
    rows = [_job_row(account, job_id, plan, now) for job_id, plan in fresh]
    returned = connection.execute(insert(jobs).returning(jobs.c.id, jobs.c.seq), rows)
    sequence = {row.id: row.seq for row in returned}
    step_rows = [
        _step_row(account, job_id, plan, position, sequence[job_id], row["run_at"], now)
        for (job_id, plan), row in zip(fresh, rows, strict=True)
        for position in range(len(plan.steps))
    ]
    connection.execute(insert(steps), step_rows)
    record(
        connection,
        *(NewEvent(account, row["id"], "status", {"status": row["status"]}) for row in rows),
    )
    return [Dispatch.of(row) for row in step_rows if row["status"] == "queued"]


def _job_row(account: str, job_id: str, plan: JobPlan, now: datetime) -> dict[str, Any]:
    run_at = max(now, plan.run_at or now) + timedelta(seconds=plan.delay)
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
    }


def _awaits_approval(plan: JobPlan, position: int) -> bool:
    return plan.approval and position == len(plan.steps) - 1


def _step_row(
    account: str, job_id: str, plan: JobPlan, position: int, sequence: int, run_at: datetime, now: datetime
) -> dict[str, Any]:
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


# --- reading -------------------------------------------------------------------------------------------------------


def fetch(connection: Connection, job_id: str, account: str | None) -> RowMapping:
    """One job, whole. `account` None stands for an admin.

    Raises:
        NotFound: no such job, or not this account's.
    """
    statement = select(jobs).where(jobs.c.id == job_id)
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


def summaries(connection: Connection, ids: Sequence[str]) -> dict[str, RowMapping]:
    """Jobs without what a list leaves out, by id."""
    found = connection.execute(select(*_SUMMARY).where(jobs.c.id.in_(ids))).mappings()
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


def page(
    connection: Connection, chosen: JobFilter, *, limit: int, cursor: str | None
) -> tuple[Sequence[RowMapping], str | None]:
    """Summaries, newest first, and the cursor of the next page (None at the end).

    Raises:
        InvalidInput: the cursor is not one of ours.
    """
    statement = select(*_SUMMARY).where(*_conditions(connection, chosen))
    if cursor is not None:
        statement = statement.where(jobs.c.seq < decode_cursor(cursor))
    rows = connection.execute(statement.order_by(jobs.c.seq.desc()).limit(limit + 1)).mappings().all()
    more = len(rows) > limit
    return rows[:limit], encode_cursor(rows[limit - 1]["seq"]) if more else None


def _conditions(connection: Connection, chosen: JobFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
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


def encode_cursor(seq: int) -> str:
    """An opaque cursor: it stays right while rows are added, because rows are ordered by `seq`."""
    return base64.urlsafe_b64encode(json.dumps([1, seq]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The `seq` in a cursor.

    Raises:
        InvalidInput: it is not one of ours.
    """
    try:
        version, seq = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error):
        version, seq = None, None
    if version != 1 or not isinstance(seq, int) or isinstance(seq, bool) or abs(seq) >= 2**63:
        raise InvalidInput("cursor: it is not one that this API gave; use next_cursor as it came")
    return seq


# --- ending from outside -------------------------------------------------------------------------------------------


def lock(connection: Connection, job_id: str, account: str | None) -> RowMapping:
    """The job, held until the transaction ends: cancel, start and approve of one job take turns by it.

    Raises:
        NotFound: no such job, or not this account's.
    """
    statement = select(jobs).where(jobs.c.id == job_id).with_for_update()
    if account is not None:
        statement = statement.where(jobs.c.account == account)
    found = connection.execute(statement).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no job {job_id!r}")
    return found


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
    changed = connection.execute(
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
    ).rowcount
    if not changed:
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
    record(connection, NewEvent(job["account"], job["id"], "status", {"status": status}))
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


def has_running_step(connection: Connection, job_id: str) -> bool:
    return connection.execute(
        select(exists().where(steps.c.job_id == job_id, steps.c.status == "running"))
    ).scalar_one()


def reopen(connection: Connection, job: RowMapping, step: RowMapping, *, delay_seconds: float = 0.0) -> Dispatch:
    """Let a job that ended go on from `step`, which is queued anew, to start after the delay at the earliest.

    Finished steps keep their outputs.
    Attempts are counted from zero again; the attempts made so far stay in the record.
    """
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job["id"])
        .values(
            status="queued",
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
                status="queued",
                attempt=0,
                lost=0,
                error=None,
                finished_at=None,
                due_at=db_now(delay_seconds) if delay_seconds > 0 else None,
                queued_at=db_now(),
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
        NewEvent(job["account"], job["id"], "status", {"status": "queued"}),
        NewEvent(job["account"], job["id"], "step", {"step": step["name"], "status": "queued", "attempt": 0}),
    )
    return Dispatch.of(row)
