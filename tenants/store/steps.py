"""The start of a step: who may run it, and what an attempt that owns it carries. Its ends are in `outcomes`.

Invariants
- A step is `running` for one attempt only: the one whose `run_token` stands in the row. A write with another token
  changes nothing, and the caller gets `OwnershipLost`.
- P1 by the database, whatever Redis says: running slots are unique (an index), and a start on slot s needs
  s + 1 + (running steps on higher slots) to be within the concurrency. So however many start at one moment, none of
  which sees another, the highest of their slots bounds them all; a mere count would let each of them see room where
  the concurrency was lowered and steps on slots beyond it still run.
- The account's limits and status hold until the start is committed: it keeps them by a shared lock of the account's row
  (FOR KEY SHARE), for which a change of them waits, and nobody else. Read without it, a start by the old limits could
  commit after one by the new ones that has not seen it.
- A job's row is locked first by whoever starts, ends or cancels it, so that these take turns and never in a ring.

The statements of the hot path are built once, at import: building one costs more than the database takes to run it.
They make the module long; each stands beside the function that guards it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from ..account import AccountLimits
from ..columns import UtcTime, db_now, seconds_since
from ..models import Account, Attempt, Circuit, Job, Lane, Step, TenantQueue, new_id
from . import approvals, circuits, endings
from .attempt import REFUSAL_SECONDS, NotRunnable, OwnedAttempt, Refused
from .dispatch import Dispatch
from .events import NewEvent, record
from .states import RUNNING

accounts, jobs, steps, attempts = Account.__table__, Job.__table__, Step.__table__, Attempt.__table__
lanes, tenant_queues, circuit = Lane.__table__, TenantQueue.__table__, Circuit.__table__


def _is_paused() -> ColumnElement[bool]:
    queue = select(1).where(
        tenant_queues.c.lane == steps.c.lane,
        tenant_queues.c.account == steps.c.account,
        tenant_queues.c.paused,
        or_(tenant_queues.c.paused_until.is_(None), tenant_queues.c.paused_until > db_now()),
    )
    lane = select(1).where(lanes.c.lane == steps.c.lane, lanes.c.paused)
    return or_(queue.exists(), lane.exists())


_next = steps.alias("following")
_after_next = steps.alias("after_following")
_LOAD = (
    select(
        steps,
        *(column.label(f"job__{column.name}") for column in jobs.c if column.name != "result"),
        (-seconds_since(steps.c.due_at)).label("due_in"),
        (-seconds_since(jobs.c.expires_at)).label("expires_in"),
        (-seconds_since(jobs.c.deadline_at)).label("deadline_in"),
        _is_paused().label("is_paused"),
        circuit.c.failures.label("circuit_failures"),
        circuit.c.opened_at.is_not(None).label("circuit_is_open"),
        (-seconds_since(circuit.c.until)).label("circuit_left"),
        *(_next.c[name].label(f"next__{name}") for name in ("id", "name", "lane")),
        select(1)
        .where(_after_next.c.job_id == steps.c.job_id, _after_next.c.position > _next.c.position)
        .exists()
        .label("more_follow"),
    )
    .join(jobs, jobs.c.id == steps.c.job_id)
    .join(accounts, accounts.c.id == steps.c.account)
    .join(_next, and_(_next.c.job_id == steps.c.job_id, _next.c.position == steps.c.position + 1), isouter=True)
    .join(circuit, and_(circuit.c.account == steps.c.account, circuit.c.lane == steps.c.lane), isouter=True)
    .where(steps.c.id == bindparam("step_id"))
    .with_for_update(of=jobs)
)

_slot = bindparam("its_slot", type_=Integer)
_twin = steps.alias("twin")
_running_higher = (
    select(func.count())
    .where(
        _twin.c.lane == bindparam("its_lane"),
        _twin.c.account == bindparam("its_account"),
        _twin.c.status == "running",
        _twin.c.slot > _slot,
    )
    .scalar_subquery()
)
_TAKE = (
    update(steps)
    .where(
        steps.c.id == bindparam("step_id"),
        steps.c.status.in_(("queued", "retrying")),
        steps.c.run_token == bindparam("seen_token"),
        _slot + _running_higher < bindparam("most"),
    )
    .values(
        status="running",
        run_token=steps.c.run_token + 1,
        attempt=steps.c.attempt + 1,
        slot=_slot,
        worker_id=bindparam("its_worker"),
        started_at=db_now(),
        due_at=None,
        progress=0,
        note="",
        error=None,
    )
    .returning(steps.c.run_token, steps.c.attempt, steps.c.started_at)
)
_BEGIN_JOB = (
    update(jobs)
    .where(jobs.c.id == bindparam("its_job"))
    .values(
        status="running",
        current_step=bindparam("its_step"),
        started_at=func.coalesce(jobs.c.started_at, bindparam("its_start", type_=UtcTime())),
        deadline_at=case(
            (and_(jobs.c.started_at.is_(None), jobs.c.deadline_seconds.is_not(None)), db_now(jobs.c.deadline_seconds)),
            else_=jobs.c.deadline_at,
        ),
    )
)
_STILL_OWNED = (
    select(steps.c.id)
    .where(steps.c.id == bindparam("step_id"), steps.c.status == "running", steps.c.run_token == bindparam("its_token"))
    .with_for_update()
)
_STILL_THERE = select(steps.c.id).where(steps.c.id == bindparam("step_id")).with_for_update(read=True)


def start(connection: Connection, step_id: str, *, worker_id: str, slot: int) -> OwnedAttempt | Refused | NotRunnable:
    """Try to make this worker the step's owner.

    Raises:
        IntegrityError: the slot is taken, by the unique index; the caller treats it as `slot_taken`. (A savepoint
            around the update would cost two round trips at each start.)
    """
    found = load(connection, step_id)
    if found is None:
        return NotRunnable("the step does not exist")
    answer = _may_start(connection, found)
    if answer is not None:
        return answer
    status, limits = _keep_account(connection, found["account"])
    if status in ("paused", "suspended"):
        return Refused(f"the account is {status}", 5 * REFUSAL_SECONDS)
    concurrency = limits.lane(found["lane"]).concurrency
    if slot >= concurrency:
        return Refused(f"slot {slot} is beyond the concurrency of {concurrency}", REFUSAL_SECONDS)
    if limits.account_concurrency is not None and not _account_has_room(
        connection, found["account"], limits.account_concurrency
    ):
        return Refused("the account runs as many steps as it may", REFUSAL_SECONDS)
    if found["circuit_is_open"] and not circuits.let_canary_start(
        connection, found["lane"], found["account"], step_id, found["run_token"] + 1
    ):
        return Refused("the circuit is open, and its canary runs", 5 * REFUSAL_SECONDS, redis_stale=True)
    return _take(connection, found, worker_id=worker_id, slot=slot, concurrency=concurrency)


def slot_taken(step_id: str, slot: int) -> Refused:
    """What a start answers when the unique index on running slots refused it."""
    return Refused(f"slot {slot} of the tenant queue of step {step_id} is taken", REFUSAL_SECONDS)


def load(connection: Connection, step_id: str) -> RowMapping | None:
    """A step with its job (columns ``job__…``), its account's limits and the step after it; the job's row is locked."""
    return connection.execute(_LOAD, {"step_id": step_id}).mappings().one_or_none()


def _may_start(connection: Connection, found: RowMapping) -> Refused | NotRunnable | None:
    job = job_of(found)
    if found["status"] == "running":
        # Its owner may be dead; the rescuer decides that, and queues the step anew.
        return Refused("another attempt runs this step", REFUSAL_SECONDS)
    if found["status"] not in ("queued", "retrying"):
        return NotRunnable(f"the step is {found['status']}")
    if job["finished_at"] is not None:
        return NotRunnable(f"the job is {job['status']}")
    if job["cancel_requested_at"] is not None:
        endings.end(connection, job, "cancelled")
        return NotRunnable("the job was cancelled")
    if found["expires_in"] is not None and found["expires_in"] <= 0 and job["started_at"] is None:
        endings.end(connection, job, "expired")
        return NotRunnable("the job has expired")
    if found["deadline_in"] is not None and found["deadline_in"] <= 0:
        endings.end_at_deadline(connection, job, found["name"])
        return NotRunnable("the job's deadline has passed")
    if job["approval"] and found["next__id"] is None and approvals.is_missing(connection, job["id"]):
        approvals.await_approval(connection, job, found)
        return NotRunnable("the step awaits approval")
    if found["due_in"] is not None and found["due_in"] > 0.005:
        return Refused("the step is not due yet", found["due_in"])
    if found["is_paused"]:
        return Refused("the queue or its lane is paused", 5 * REFUSAL_SECONDS)
    if found["circuit_is_open"] and found["circuit_left"] > 0:
        return Refused("the circuit is open", min(found["circuit_left"], 5 * REFUSAL_SECONDS), redis_stale=True)
    return None


def _keep_account(connection: Connection, account: str) -> tuple[str, AccountLimits]:
    """The account's status and limits, which nobody changes until this transaction ends."""
    statement = select(accounts.c.status, accounts.c.limits).where(accounts.c.id == account)
    row = connection.execute(statement.with_for_update(read=True, key_share=True)).one()
    return row.status, AccountLimits.from_json(row.limits)


def _account_has_room(connection: Connection, account: str, most: int) -> bool:
    """Count what runs over all lanes, one start of the account at a time, so that two cannot both see room."""
    connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update(key_share=True))
    running = connection.execute(select(func.count()).where(steps.c.account == account, RUNNING)).scalar_one()
    return running < most


def _take(
    connection: Connection, found: RowMapping, *, worker_id: str, slot: int, concurrency: int
) -> OwnedAttempt | Refused:
    taken = connection.execute(
        _TAKE,
        {
            "step_id": found["id"],
            "seen_token": found["run_token"],
            "its_lane": found["lane"],
            "its_account": found["account"],
            "most": concurrency,
            "its_slot": slot,
            "its_worker": worker_id,
        },
    ).one_or_none()
    if taken is None:
        return Refused("the tenant queue runs as many steps as it may", REFUSAL_SECONDS)
    outputs = _outputs_before(connection, found["job_id"], found["position"])
    canary = bool(found["circuit_is_open"])
    owned = owned_of(found, taken.run_token, taken.attempt, outputs, concurrency=concurrency, canary=canary)
    _note_start(connection, owned, taken.started_at, worker_id, slot)
    return owned


def owned_of(
    found: RowMapping,
    run_token: int,
    attempt: int,
    outputs: Mapping[str, Any],
    *,
    concurrency: int = 1,
    canary: bool = False,
) -> OwnedAttempt:
    """What an attempt carries, from a row of `load`."""
    job = job_of(found)
    following = None
    if found["next__id"] is not None:
        following = Dispatch(
            id=found["next__id"],
            account=found["account"],
            pipeline=found["pipeline"],
            name=found["next__name"],
            lane=found["next__lane"],
            priority=found["priority"],
            sequence=found["sequence"],
            due_at=None,
        )
    return OwnedAttempt(
        step_id=found["id"],
        job_id=found["job_id"],
        account=found["account"],
        pipeline=found["pipeline"],
        name=found["name"],
        lane=found["lane"],
        position=found["position"],
        run_token=run_token,
        attempt=attempt,
        max_attempts=found["max_attempts"],
        lost=found["lost"],
        required=found["required"],
        job=job,
        outputs=outputs,
        deadline_seconds=job["deadline_seconds"] if job["started_at"] is None else found["deadline_in"],
        following=following,
        following_awaits_approval=bool(job["approval"]) and following is not None and not found["more_follow"],
        after_failures=may_have_failures(found["circuit_failures"], concurrency),
        canary=canary,
    )


def may_have_failures(failures: int | None, concurrency: int) -> bool:
    """Whether a tenant queue may have failures to forget when the step that starts now completes.

    With a concurrency of 1 nothing else of it can end meanwhile, so that what is known at the start holds at the end.
    """
    return failures is not None or concurrency > 1


def _note_start(connection: Connection, owned: OwnedAttempt, started_at: datetime, worker_id: str, slot: int) -> None:
    connection.execute(
        insert(attempts),
        {
            "id": new_id(),
            "step_id": owned.step_id,
            "job_id": owned.job_id,
            "account": owned.account,
            "lane": owned.lane,
            "number": owned.attempt,
            "run_token": owned.run_token,
            "slot": slot,
            "worker": worker_id,
            "started_at": started_at,
        },
    )
    connection.execute(_BEGIN_JOB, {"its_job": owned.job_id, "its_step": owned.name, "its_start": started_at})
    happened = [owned.step_event("running")]
    if owned.job["status"] != "running":
        happened.insert(0, owned.status_event("running"))
    record(connection, *happened)


def job_of(found: RowMapping) -> dict[str, Any]:
    """The job in a row of `load`."""
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


def still_owned(connection: Connection, owned: OwnedAttempt) -> None:
    """Hold the step's row and make sure that this attempt still owns it; for the writes of a running step.

    Raises:
        OwnershipLost: it does not.
    """
    row = connection.execute(_STILL_OWNED, {"step_id": owned.step_id, "its_token": owned.run_token}).one_or_none()
    if row is None:
        raise owned.ownership_lost()


def still_there(connection: Connection, owned: OwnedAttempt) -> None:
    """Make sure that the step was not removed, and is not while this transaction lasts.

    For what an attempt leaves behind whoever owns the step now, such as evidence and what it has used; of a step that
    was erased with its account nothing may come into being again.

    Raises:
        OwnershipLost: it was removed.
    """
    if connection.execute(_STILL_THERE, {"step_id": owned.step_id}).one_or_none() is None:
        raise owned.ownership_lost()


def progress(connection: Connection, owned: OwnedAttempt, percent: int, note: str) -> None:
    """Raises: OwnershipLost."""
    guarded(connection, owned, progress=percent, note=note)
    record(
        connection,
        NewEvent(owned.account, owned.job_id, "progress", {"step": owned.name, "progress": percent, "note": note}),
    )


def guarded(connection: Connection, owned: OwnedAttempt, **values: Any) -> None:
    """Write to the step only if this attempt owns it.

    Raises:
        OwnershipLost: it does not; nothing was written.
    """
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
        raise owned.ownership_lost()


def enter(connection: Connection, owned: OwnedAttempt) -> None:
    """Record that the function of an irreversible step is entered next: from then on nobody can tell what it did.

    Raises:
        OwnershipLost: the step does not belong to this attempt, so its function must not be entered.
    """
    guarded(connection, owned, entered_token=owned.run_token)
