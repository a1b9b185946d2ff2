"""The life of a step: start, finish, fail, hand back, lose. Every transition is one guarded UPDATE.

Invariants
- A step is `running` for one attempt only: the one whose `run_token` stands in the row. A write with another token
  changes nothing, and the caller gets `OwnershipLost`.
- P1 by the database: a start takes a slot below the tenant queue's concurrency, the unique index on running slots
  holds, and no more run than the concurrency allows, whatever Redis says.
- A job's row is locked by whoever starts, ends or cancels it, so that these take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, and_, case, func, insert, or_, select, update

from ..account import AccountLimits
from ..columns import db_now, seconds_since
from ..errors import OwnershipLost
from ..models import Account, Attempt, DeadLetter, Job, Lane, Step, TenantQueue, new_id
from . import jobs as job_store
from .events import NewEvent, record
from .jobs import Dispatch

accounts, jobs, steps, attempts = Account.__table__, Job.__table__, Step.__table__, Attempt.__table__
dead_letters, lanes, tenant_queues = DeadLetter.__table__, Lane.__table__, TenantQueue.__table__

#: Attempts that may be lost with their worker before the step fails for good.
LOST_BUDGET = 5
#: Seconds after which a message whose step may not start yet is looked at again.
REFUSAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Owned:
    """An attempt that owns its step: what every later write of it carries."""

    step_id: str
    job_id: str
    account: str
    pipeline: str
    name: str
    lane: str
    position: int
    run_token: int
    attempt: int
    max_attempts: int
    required: bool
    #: The job as it was at the start, and the outputs of the finished steps by name.
    job: Mapping[str, Any]
    outputs: Mapping[str, Any]
    #: Seconds left until the job's deadline at the start; None without one.
    deadline_seconds: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The step may not start now; its message goes back for `seconds`, and no attempt is spent."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Gone:
    """There is nothing to run: the step ended, or its job did. The message is settled."""

    reason: str


def start(connection: Connection, step_id: str, *, worker_id: str, slot: int) -> Owned | Refused | Gone:
    """Try to make this worker the step's owner.

    Raises:
        IntegrityError: the slot is taken, by the unique index; the caller treats it as `slot_taken`. (A savepoint
            around the update would cost two round trips at each start.)
    """
    found = _load(connection, step_id)
    if found is None:
        return Gone("the step does not exist")
    answer = _may_start(connection, found)
    if answer is not None:
        return answer
    limits = AccountLimits.from_json(found["limits"])
    concurrency = limits.lane(found["lane"]).concurrency
    if slot >= concurrency:
        return Refused(f"slot {slot} is beyond the concurrency of {concurrency}", REFUSAL_SECONDS)
    if limits.account_concurrency is not None and not _account_has_room(
        connection, found["account"], limits.account_concurrency
    ):
        return Refused("the account runs as many steps as it may", REFUSAL_SECONDS)
    return _take(connection, found, worker_id=worker_id, slot=slot, concurrency=concurrency)


def slot_taken(step_id: str, slot: int) -> Refused:
    """What a start answers when the unique index on running slots refused it."""
    return Refused(f"slot {slot} of the tenant queue of step {step_id} is taken", REFUSAL_SECONDS)


def _load(connection: Connection, step_id: str) -> RowMapping | None:
    statement = (
        select(
            steps,
            *(column.label(f"job__{column.name}") for column in jobs.c if column.name != "result"),
            accounts.c.status.label("account_status"),
            accounts.c.limits,
            (-seconds_since(steps.c.due_at)).label("due_in"),
            (-seconds_since(jobs.c.expires_at)).label("expires_in"),
            (-seconds_since(jobs.c.deadline_at)).label("deadline_in"),
        )
        .join(jobs, jobs.c.id == steps.c.job_id)
        .join(accounts, accounts.c.id == steps.c.account)
        .where(steps.c.id == step_id)
        .with_for_update(of=jobs)
    )
    return connection.execute(statement).mappings().one_or_none()


def _may_start(connection: Connection, found: RowMapping) -> Refused | Gone | None:
    job = _job_of(found)
    if found["status"] == "running":
        # Its owner may be dead; the rescuer decides that, and queues the step anew.
        return Refused("another attempt runs this step", REFUSAL_SECONDS)
    if found["status"] not in ("queued", "retrying"):
        return Gone(f"the step is {found['status']}")
    if job["finished_at"] is not None:
        return Gone(f"the job is {job['status']}")
    if job["cancel_requested_at"] is not None:
        job_store.end(connection, job, "cancelled")
        return Gone("the job was cancelled")
    if found["expires_in"] is not None and found["expires_in"] <= 0 and job["started_at"] is None:
        job_store.end(connection, job, "expired")
        return Gone("the job has expired")
    if found["deadline_in"] is not None and found["deadline_in"] <= 0:
        end_at_deadline(connection, job, found["name"])
        return Gone("the job's deadline has passed")
    if found["due_in"] is not None and found["due_in"] > 0.005:
        return Refused("the step is not due yet", found["due_in"])
    if found["account_status"] in ("paused", "suspended"):
        return Refused(f"the account is {found['account_status']}", 5 * REFUSAL_SECONDS)
    if _is_paused(connection, found["lane"], found["account"]):
        return Refused("the queue or its lane is paused", 5 * REFUSAL_SECONDS)
    return None


def _is_paused(connection: Connection, lane: str, account: str) -> bool:
    queue = select(tenant_queues.c.paused).where(
        tenant_queues.c.lane == lane,
        tenant_queues.c.account == account,
        tenant_queues.c.paused,
        or_(tenant_queues.c.paused_until.is_(None), tenant_queues.c.paused_until > db_now()),
    )
    lane_row = select(lanes.c.paused).where(lanes.c.lane == lane, lanes.c.paused)
    return connection.execute(select(or_(queue.exists(), lane_row.exists()))).scalar_one()


def _account_has_room(connection: Connection, account: str, most: int) -> bool:
    """Count what runs over all lanes, while the account's row is held, so that two starts cannot both see room."""
    connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update())
    running = connection.execute(
        select(func.count()).where(steps.c.account == account, steps.c.status == "running")
    ).scalar_one()
    return running < most


def _take(connection: Connection, found: RowMapping, *, worker_id: str, slot: int, concurrency: int) -> Owned | Refused:
    twin = steps.alias("twin")
    running = (
        select(func.count())
        .where(twin.c.lane == found["lane"], twin.c.account == found["account"], twin.c.status == "running")
        .scalar_subquery()
    )
    guarded = (
        update(steps)
        .where(
            steps.c.id == found["id"],
            steps.c.status.in_(("queued", "retrying")),
            steps.c.run_token == found["run_token"],
            running < concurrency,
        )
        .values(
            status="running",
            run_token=steps.c.run_token + 1,
            attempt=steps.c.attempt + 1,
            slot=slot,
            worker_id=worker_id,
            started_at=db_now(),
            due_at=None,
            progress=0,
            note="",
            error=None,
        )
        .returning(steps.c.run_token, steps.c.attempt, steps.c.started_at)
    )
    taken = connection.execute(guarded).one_or_none()
    if taken is None:
        return Refused("the tenant queue runs as many steps as it may", REFUSAL_SECONDS)
    _note_start(connection, found, taken.run_token, taken.attempt, taken.started_at, worker_id, slot)
    job = _job_of(found)
    return Owned(
        step_id=found["id"],
        job_id=found["job_id"],
        account=found["account"],
        pipeline=found["pipeline"],
        name=found["name"],
        lane=found["lane"],
        position=found["position"],
        run_token=taken.run_token,
        attempt=taken.attempt,
        max_attempts=found["max_attempts"],
        required=found["required"],
        job=job,
        outputs=_outputs_before(connection, found["job_id"], found["position"]),
        deadline_seconds=(job["deadline_seconds"] if job["started_at"] is None else found["deadline_in"]),
    )


def _note_start(
    connection: Connection,
    found: RowMapping,
    run_token: int,
    attempt: int,
    started_at: datetime,
    worker_id: str,
    slot: int,
) -> None:
    connection.execute(
        insert(attempts).values(
            id=new_id(),
            step_id=found["id"],
            job_id=found["job_id"],
            account=found["account"],
            lane=found["lane"],
            number=attempt,
            run_token=run_token,
            slot=slot,
            worker=worker_id,
            started_at=started_at,
        )
    )
    job = _job_of(found)
    values: dict[str, Any] = {"status": "running", "current_step": found["name"]}
    if job["started_at"] is None:
        values["started_at"] = started_at
        if job["deadline_seconds"] is not None:
            values["deadline_at"] = db_now(job["deadline_seconds"])
    connection.execute(update(jobs).where(jobs.c.id == found["job_id"]).values(**values))
    happened = [
        NewEvent(
            found["account"],
            found["job_id"],
            "step",
            {"step": found["name"], "status": "running", "attempt": attempt},
        )
    ]
    if job["status"] != "running":
        happened.insert(0, NewEvent(found["account"], found["job_id"], "status", {"status": "running"}))
    record(connection, *happened)


def _job_of(found: RowMapping) -> dict[str, Any]:
    return {column.name: found[f"job__{column.name}"] for column in jobs.c if column.name != "result"}


def _outputs_before(connection: Connection, job_id: str, position: int) -> dict[str, Any]:
    if position == 0:
        return {}
    rows = connection.execute(
        select(steps.c.name, steps.c.output).where(
            steps.c.job_id == job_id, steps.c.position < position, steps.c.status == "completed"
        )
    )
    return {row.name: row.output for row in rows}


# --- the end of an attempt -----------------------------------------------------------------------------------------


def still_owned(connection: Connection, owned: Owned) -> None:
    """Hold the step's row and make sure that this attempt still owns it; for the writes of a running step.

    Raises:
        OwnershipLost: it does not.
    """
    row = connection.execute(
        select(steps.c.id)
        .where(steps.c.id == owned.step_id, steps.c.status == "running", steps.c.run_token == owned.run_token)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise _lost(owned)


def progress(connection: Connection, owned: Owned, percent: int, note: str) -> None:
    """Raises: OwnershipLost."""
    _guarded(connection, owned, progress=percent, note=note)
    record(
        connection,
        NewEvent(owned.account, owned.job_id, "progress", {"step": owned.name, "progress": percent, "note": note}),
    )


def complete(connection: Connection, owned: Owned, output: dict[str, Any]) -> Dispatch | None:
    """Keep the output, and queue the next step in the same transaction.

    Returns the next step to hand to Redis, or None when none is queued (the job ended, or awaits approval).

    Raises:
        OwnershipLost: another attempt owns the step; nothing was written.
    """
    _lock_job(connection, owned)
    _guarded(
        connection,
        owned,
        status="completed",
        output=output,
        progress=100,
        finished_at=db_now(),
        slot=None,
        worker_id=None,
        error=None,
    )
    _close_attempt(connection, owned, "completed", None)
    _step_event(connection, owned, "completed")
    return _go_on(connection, owned)


def retry(
    connection: Connection,
    owned: Owned,
    *,
    outcome: Literal["failed", "timed_out", "snoozed", "provider_busy", "lost"],
    error: dict[str, Any] | None,
    delay_seconds: float,
    handed_back: bool = False,
) -> None:
    """Let the step wait and be tried again. A failure spends an attempt; a snooze, a busy provider and a loss do not.

    A loss counts against a budget of its own, except when the worker handed the step back in an orderly stop. The
    attempt's own message comes back by itself after the delay, so the step counts as dispatched.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    spends = outcome in ("failed", "timed_out")
    _lock_job(connection, owned)
    values: dict[str, Any] = {
        "status": "retrying" if spends or outcome == "lost" else "queued",
        "slot": None,
        "worker_id": None,
        "due_at": db_now(delay_seconds) if delay_seconds > 0 else None,
        "queued_at": db_now(),
        # A lost attempt's message may be lost with it: the dispatcher makes sure.
        "dispatched_at": None if outcome == "lost" and not handed_back else db_now(),
        "error": error,
    }
    if not spends:
        values["attempt"] = steps.c.attempt - 1
    if outcome == "lost" and not handed_back:
        values["lost"] = steps.c.lost + 1
    _guarded(connection, owned, **values)
    _close_attempt(connection, owned, outcome, error)
    connection.execute(
        update(jobs).where(jobs.c.id == owned.job_id, jobs.c.finished_at.is_(None)).values(status="queued")
    )
    _step_event(connection, owned, values["status"])
    record(connection, NewEvent(owned.account, owned.job_id, "status", {"status": "queued"}))


def fail(
    connection: Connection,
    owned: Owned,
    *,
    outcome: Literal["failed", "timed_out", "cancelled", "lost"],
    error: dict[str, Any],
    traceback: str | None,
    message: dict[str, Any],
) -> Dispatch | None:
    """End the step for good. A required step ends its job and leaves a dead letter; a best-effort one lets it go on.

    Returns the next step to hand to Redis, if the job goes on.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    job = _lock_job(connection, owned)
    status = "timed_out" if outcome == "timed_out" else "failed"
    _guarded(connection, owned, status=status, error=error, finished_at=db_now(), slot=None, worker_id=None)
    _close_attempt(connection, owned, outcome, error)
    _step_event(connection, owned, status)
    if not owned.required:
        return _go_on(connection, owned)
    letter = _dead_letter(owned, error, traceback, message)
    connection.execute(insert(dead_letters).values(**letter, created_at=db_now()))
    job_store.end(
        connection,
        job,
        status,
        error={"code": error["code"], "message": error["message"], "step": owned.name},
        failed_step=owned.name,
    )
    return None


def cancel(connection: Connection, owned: Owned) -> None:
    """End the running step because its job was cancelled, and the job with it.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    job = _lock_job(connection, owned)
    _guarded(connection, owned, status="cancelled", finished_at=db_now(), slot=None, worker_id=None)
    _close_attempt(connection, owned, "cancelled", None)
    _step_event(connection, owned, "cancelled")
    job_store.end(connection, job, "cancelled")


def time_out_job(connection: Connection, owned: Owned) -> None:
    """End the running step because the job's deadline passed.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    job = _lock_job(connection, owned)
    error = _deadline_error(owned.name)
    _guarded(connection, owned, status="timed_out", error=error, finished_at=db_now(), slot=None, worker_id=None)
    _close_attempt(connection, owned, "timed_out", error)
    _step_event(connection, owned, "timed_out")
    end_at_deadline(connection, job, owned.name)


def end_at_deadline(connection: Connection, job: Mapping[Any, Any], step: str) -> None:
    """End a job whose deadline has passed."""
    job_store.end(
        connection,
        job,
        "timed_out",
        error={**_deadline_error(step), "step": step},
        failed_step=step,
    )


def lose(connection: Connection, step: RowMapping) -> None:
    """Take a running step from a worker that is dead. Its attempt is `lost`, which has a budget of its own.

    Does nothing when the step moved on meanwhile.
    """
    owned = Owned(
        step_id=step["id"],
        job_id=step["job_id"],
        account=step["account"],
        pipeline=step["pipeline"],
        name=step["name"],
        lane=step["lane"],
        position=step["position"],
        run_token=step["run_token"],
        attempt=step["attempt"],
        max_attempts=step["max_attempts"],
        required=step["required"],
        job={},
        outputs={},
        deadline_seconds=None,
    )
    error = {"code": "lost", "message": f"the worker {step['worker_id']} died while it ran this step"}
    if step["lost"] + 1 > LOST_BUDGET:
        error["message"] = f"{LOST_BUDGET + 1} attempts in all were lost with their workers; " + error["message"]
        fail(connection, owned, outcome="lost", error=error, traceback=None, message={"step": owned.step_id})
    else:
        retry(connection, owned, outcome="lost", error=error, delay_seconds=0.0)


# --- shared --------------------------------------------------------------------------------------------------------


def _lock_job(connection: Connection, owned: Owned) -> RowMapping:
    """The job's row first, as in `start`: one order of locks, so that these never wait for each other in a ring."""
    return job_store.lock(connection, owned.job_id, owned.account)


def _guarded(connection: Connection, owned: Owned, **values: Any) -> None:
    changed = connection.execute(
        update(steps)
        .where(
            and_(
                steps.c.id == owned.step_id,
                steps.c.status == "running",
                steps.c.run_token == owned.run_token,
            )
        )
        .values(**values)
    ).rowcount
    if not changed:
        raise _lost(owned)


def _lost(owned: Owned) -> OwnershipLost:
    return OwnershipLost(
        f"step {owned.step_id} ({owned.pipeline}.{owned.name}) of job {owned.job_id} is not owned by run "
        f"{owned.run_token} any more; its result is refused"
    )


def _close_attempt(connection: Connection, owned: Owned, outcome: str, error: dict[str, Any] | None) -> None:
    connection.execute(
        update(attempts)
        .where(attempts.c.step_id == owned.step_id, attempts.c.run_token == owned.run_token)
        .values(outcome=outcome, error=error, finished_at=db_now())
    )


def _step_event(connection: Connection, owned: Owned, status: str) -> None:
    record(
        connection,
        NewEvent(owned.account, owned.job_id, "step", {"step": owned.name, "status": status, "attempt": owned.attempt}),
    )


def _go_on(connection: Connection, owned: Owned) -> Dispatch | None:
    """Queue the next step, or end the job as completed."""
    last = select(func.max(steps.c.position)).where(steps.c.job_id == owned.job_id).scalar_subquery()
    approval = select(jobs.c.approval).where(jobs.c.id == owned.job_id).scalar_subquery()
    waits = and_(approval, steps.c.position == select(last).scalar_subquery())
    following = (
        connection.execute(
            update(steps)
            .where(
                steps.c.job_id == owned.job_id,
                steps.c.position == owned.position + 1,
                steps.c.status == "pending",
            )
            .values(
                status=case((waits, "awaiting_approval"), else_="queued"),
                queued_at=case((waits, None), else_=db_now()),
            )
            .returning(steps)
        )
        .mappings()
        .one_or_none()
    )
    if following is None:
        _complete_job(connection, owned)
        return None
    status = following["status"]
    connection.execute(
        update(jobs).where(jobs.c.id == owned.job_id).values(status=status, current_step=following["name"])
    )
    record(connection, NewEvent(owned.account, owned.job_id, "status", {"status": status}))
    return Dispatch.of(following) if status == "queued" else None


def _complete_job(connection: Connection, owned: Owned) -> None:
    job = job_store.lock(connection, owned.job_id, owned.account)
    result = connection.execute(
        select(steps.c.output)
        .where(steps.c.job_id == owned.job_id, steps.c.required)
        .order_by(steps.c.position.desc())
        .limit(1)
    ).scalar_one()
    job_store.end(connection, job, "completed", result=result)


def _deadline_error(step: str) -> dict[str, Any]:
    return {"code": "deadline_passed", "message": f"the job's deadline passed at step {step!r}"}


def _dead_letter(owned: Owned, error: dict[str, Any], traceback: str | None, message: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": new_id(),
        "account": owned.account,
        "lane": owned.lane,
        "pipeline": owned.pipeline,
        "actor": f"{owned.pipeline}.{owned.name}",
        "job_id": owned.job_id,
        "step_id": owned.step_id,
        "message": message,
        "error_code": error["code"],
        "error": {**error, "traceback": traceback},
        "attempts": owned.attempt,
    }
