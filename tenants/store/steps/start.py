"""Starts of steps, in SQL that both databases have: who may run a step.

Invariants
- P1 holds by the database, whatever Redis says: running slots are unique (an index), and a start on slot s needs
  s + 1 + (running steps on higher slots) to be within the concurrency. Of any starts at one moment, none of which sees
  another, the highest slot bounds them all. A mere count would let each of them start where the concurrency was lowered
  and steps on slots beyond it still run.
- The account's limits and status hold until the start is committed, by a shared lock of the account's row
  (FOR KEY SHARE): a change of them waits. Without it, a start by the old limits could commit after a start by the new
  ones that has not seen it.
- Rows are locked in the order job, step, attempt.

Statements are built once, at import: building one takes longer than the database takes to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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
    null,
    or_,
    select,
    update,
)

from ...account import AccountLimits
from ...database.columns import UtcTime, db_now, seconds_since
from ...database.models import Account, Attempt, Circuit, Job, Lane, Step, TenantQueue, new_id
from ..accounts import circuits
from ..attempt import REFUSAL_SECONDS, NotRunnable, OwnedAttempt, Refused
from ..events import record
from ..jobs import approval as approvals
from ..jobs import finish as endings
from ..states import RUNNING

accounts, jobs, steps, attempts = Account.__table__, Job.__table__, Step.__table__, Attempt.__table__
lanes, tenant_queues, circuit = Lane.__table__, TenantQueue.__table__, Circuit.__table__

#: Why a step does not start, in the order in which this is looked at.
Verdict = Literal[
    "running",
    "ended",
    "job_ended",
    "cancelled",
    "expired",
    "deadline_passed",
    "unapproved",
    "not_due",
    "queue_paused",
    "circuit_open",
    "account_stopped",
    "beyond_concurrency",
    "account_full",
    "canary_runs",
    "queue_full",
    "slot_taken",
]


def answer_to(verdict: Verdict, row: Mapping[Any, Any], slot: int) -> Refused | NotRunnable:
    """The answer to a start that was not possible; `row` has the columns of `load` that say why."""
    match verdict:
        case "ended":
            return NotRunnable(f"the step is {row['status']}")
        case "job_ended":
            return NotRunnable(f"the job is {row['job_status']}")
        case "cancelled":
            return NotRunnable("the job was cancelled")
        case "expired":
            return NotRunnable("the job has expired")
        case "deadline_passed":
            return NotRunnable("the job's deadline has passed")
        case "unapproved":
            return NotRunnable("the step awaits approval")
        case "running":
            # Its owner may be dead; the rescuer decides that, and queues the step anew.
            return Refused("another attempt runs this step", REFUSAL_SECONDS)
        case "not_due":
            return Refused("the step is not due yet", row["due_in"])
        case "queue_paused":
            return Refused("the queue or its lane is paused", 5 * REFUSAL_SECONDS)
        case "circuit_open":
            return Refused("the circuit is open", min(row["circuit_left"], 5 * REFUSAL_SECONDS), redis_stale=True)
        case "account_stopped":
            return Refused(f"the account is {row['account_status']}", 5 * REFUSAL_SECONDS)
        case "beyond_concurrency":
            return Refused(f"slot {slot} is beyond the concurrency of {row['concurrency']}", REFUSAL_SECONDS)
        case "account_full":
            return Refused("the account runs as many steps as it may", REFUSAL_SECONDS)
        case "canary_runs":
            return Refused("the circuit is open, and its canary runs", 5 * REFUSAL_SECONDS, redis_stale=True)
        case "queue_full":
            return Refused("the tenant queue runs as many steps as it may", REFUSAL_SECONDS)
        case "slot_taken":
            return Refused(f"slot {slot} of the tenant queue is taken", REFUSAL_SECONDS)


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
        *(column.label(f"job_{column.name}") for column in jobs.c if column.name not in ("id", "result")),
        (-seconds_since(steps.c.due_at)).label("due_in"),
        (-seconds_since(jobs.c.expires_at)).label("expires_in"),
        (-seconds_since(jobs.c.deadline_at)).label("deadline_in"),
        case((jobs.c.started_at.is_(None), jobs.c.deadline_seconds), else_=-seconds_since(jobs.c.deadline_at)).label(
            "deadline_left"
        ),
        null().label("outputs"),
        accounts.c.status.label("account_status"),
        accounts.c.limits.label("account_limits"),
        _is_paused().label("is_paused"),
        circuit.c.failures.label("circuit_failures"),
        circuit.c.opened_at.is_not(None).label("circuit_is_open"),
        (-seconds_since(circuit.c.until)).label("circuit_left"),
        *(_next.c[name].label(f"next_{name}") for name in ("id", "name", "lane")),
        select(1)
        .where(_after_next.c.job_id == steps.c.job_id, _after_next.c.position > _next.c.position)
        .exists()
        .label("more_follow"),
    )
    .join(jobs, jobs.c.id == steps.c.job_id)
    .join(accounts, accounts.c.id == steps.c.account)
    .join(_next, and_(_next.c.job_id == steps.c.job_id, _next.c.position == steps.c.position + 1), isouter=True)
    .join(circuit, and_(circuit.c.account == steps.c.account, circuit.c.lane == steps.c.lane), isouter=True)
    .where(steps.c.id == bindparam("p_step"))
    .with_for_update(of=jobs)
)

_slot = bindparam("p_slot", type_=Integer)
_other = steps.alias("other_steps")
_running_higher = (
    select(func.count())
    .where(
        _other.c.lane == bindparam("p_lane"),
        _other.c.account == bindparam("p_account"),
        _other.c.status == "running",
        _other.c.slot > _slot,
    )
    .scalar_subquery()
)
_TAKE = (
    update(steps)
    .where(
        steps.c.id == bindparam("p_step"),
        steps.c.status.in_(("queued", "retrying")),
        steps.c.run_token == bindparam("p_run_token"),
        _slot + _running_higher < bindparam("p_concurrency"),
    )
    .values(
        status="running",
        run_token=steps.c.run_token + 1,
        attempt=steps.c.attempt + 1,
        slot=_slot,
        worker_id=bindparam("p_worker"),
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
    .where(jobs.c.id == bindparam("p_job"))
    .values(
        status="running",
        current_step=bindparam("p_name"),
        started_at=func.coalesce(jobs.c.started_at, bindparam("p_started_at", type_=UtcTime())),
        deadline_at=case(
            (and_(jobs.c.started_at.is_(None), jobs.c.deadline_seconds.is_not(None)), db_now(jobs.c.deadline_seconds)),
            else_=jobs.c.deadline_at,
        ),
    )
)
_KEEP_ACCOUNT = (
    select(accounts.c.status, accounts.c.limits)
    .where(accounts.c.id == bindparam("p_account"))
    .with_for_update(read=True, key_share=True)
)
_COUNT_RUNNING = select(func.count()).where(steps.c.account == bindparam("p_account"), RUNNING)
_OUTPUTS_BEFORE = select(steps.c.name, steps.c.output).where(
    steps.c.job_id == bindparam("p_job"), steps.c.position < bindparam("p_position"), steps.c.status == "completed"
)
_INSERT_ATTEMPT = insert(attempts)
_JOB_COLUMNS = tuple(column.name for column in jobs.c if column.name not in ("id", "result"))


def start(connection: Connection, step_id: str, *, worker_id: str, slot: int) -> OwnedAttempt | Refused | NotRunnable:
    """Make this worker the step's owner, or say why not.

    Raises:
        IntegrityError: another start took the slot at this moment, by the unique index.
    """
    found = load(connection, step_id)
    if found is None:
        return NotRunnable("the step does not exist")
    verdict = _verdict_of_job(connection, found) or _verdict_of_queue(found)
    if verdict is not None:
        return answer_to(verdict, found, slot)
    status, limits = _keep_account(connection, found)
    concurrency = limits.lane(found["lane"]).concurrency
    row = {**found, "account_status": status, "concurrency": concurrency}
    if status in ("paused", "suspended"):
        return answer_to("account_stopped", row, slot)
    if slot >= concurrency:
        return answer_to("beyond_concurrency", row, slot)
    if not _account_has_room(connection, found["account"], limits.account_concurrency):
        return answer_to("account_full", row, slot)
    canary = bool(found["circuit_is_open"])
    if canary and not circuits.let_canary_start(
        connection, found["lane"], found["account"], step_id, found["run_token"] + 1
    ):
        return answer_to("canary_runs", row, slot)
    taken = connection.execute(
        _TAKE,
        {
            "p_step": step_id,
            "p_run_token": found["run_token"],
            "p_lane": found["lane"],
            "p_account": found["account"],
            "p_concurrency": concurrency,
            "p_slot": slot,
            "p_worker": worker_id,
        },
    ).one_or_none()
    if taken is None:
        return answer_to("queue_full", row, slot)
    row |= {"run_token": taken.run_token, "attempt": taken.attempt, "outputs": _outputs_before(connection, found)}
    owned = OwnedAttempt.of(row, job_of(found), canary=canary)
    _record_start(connection, owned, taken.started_at, worker_id, slot)
    return owned


def load(connection: Connection, step_id: str) -> RowMapping | None:
    """A step with its job (columns ``job_…``), its account and the step after it; the job's row is locked."""
    return connection.execute(_LOAD, {"p_step": step_id}).mappings().one_or_none()


def attempt_of(found: RowMapping) -> OwnedAttempt:
    """The attempt that a row of `load` has, for ending it from outside."""
    return OwnedAttempt.of({**found, "concurrency": 1}, job_of(found))


def job_of(found: RowMapping) -> dict[str, Any]:
    """The job in a row of `load`."""
    return {"id": found["job_id"], **{name: found[f"job_{name}"] for name in _JOB_COLUMNS}}


def _verdict_of_job(connection: Connection, found: RowMapping) -> Verdict | None:
    """Why the step cannot run at all. A job whose time has passed, or that is to be cancelled, is ended here."""
    if found["status"] == "running":
        return "running"
    if found["status"] not in ("queued", "retrying"):
        return "ended"
    if found["job_finished_at"] is not None:
        return "job_ended"
    if found["job_cancel_requested_at"] is not None:
        endings.end(connection, job_of(found), "cancelled")
        return "cancelled"
    if found["job_started_at"] is None and found["expires_in"] is not None and found["expires_in"] <= 0:
        endings.end(connection, job_of(found), "expired")
        return "expired"
    if found["deadline_in"] is not None and found["deadline_in"] <= 0:
        endings.end_at_deadline(connection, job_of(found), found["name"])
        return "deadline_passed"
    if found["job_approval"] and found["next_id"] is None and approvals.is_missing(connection, found["job_id"]):
        approvals.await_approval(connection, job_of(found), found)
        return "unapproved"
    return None


def _verdict_of_queue(found: RowMapping) -> Verdict | None:
    """Why the step cannot run now, apart from the account's limits."""
    if found["due_in"] is not None and found["due_in"] > 0.005:
        return "not_due"
    if found["is_paused"]:
        return "queue_paused"
    if found["circuit_is_open"] and found["circuit_left"] > 0:
        return "circuit_open"
    return None


def _keep_account(connection: Connection, found: RowMapping) -> tuple[str, AccountLimits]:
    """The account's status and limits, which are not changed until this transaction ends."""
    if connection.dialect.name == "sqlite":  # this transaction is the only writer
        return found["account_status"], AccountLimits.from_json(found["account_limits"])
    row = connection.execute(_KEEP_ACCOUNT, {"p_account": found["account"]}).one()
    return row.status, AccountLimits.from_json(row.limits)


def _account_has_room(connection: Connection, account: str, most: int | None) -> bool:
    """Count what runs over all lanes, one start of the account at a time, so that no two see the same room."""
    if most is None:
        return True
    connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update(key_share=True))
    return bool(connection.execute(_COUNT_RUNNING, {"p_account": account}).scalar_one() < most)


def _outputs_before(connection: Connection, found: RowMapping) -> dict[str, Any]:
    if found["position"] == 0:
        return {}
    known = {"p_job": found["job_id"], "p_position": found["position"]}
    return {row.name: row.output for row in connection.execute(_OUTPUTS_BEFORE, known)}


def _record_start(connection: Connection, owned: OwnedAttempt, started_at: Any, worker_id: str, slot: int) -> None:
    connection.execute(
        _INSERT_ATTEMPT,
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
    connection.execute(_BEGIN_JOB, {"p_job": owned.job_id, "p_name": owned.name, "p_started_at": started_at})
    happened = [owned.step_event("running")]
    if owned.job["status"] != "running":
        happened.insert(0, owned.status_event("running"))
    record(connection, *happened)
