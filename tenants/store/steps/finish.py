"""The ends of an attempt: complete, wait and try again, fail, be cancelled, be lost. Each is one guarded transaction.

The order of writes is always job, step, attempt, next step, events, so that two of these never wait for each other.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, bindparam, insert, select, update

from ...database.columns import db_now
from ...database.models import Attempt, DeadLetter, Job, Step, new_id
from ...errors import OwnershipLost
from .. import workers
from ..accounts import circuits
from ..accounts.circuits import CircuitPolicy
from ..attempt import OwnedAttempt, write_owned
from ..dead_letters import alerts
from ..dispatch import Dispatch
from ..events import record
from ..jobs import approval as approvals
from ..jobs import finish as endings
from ..jobs import unknown_outcomes, webhook_deliveries
from ..publishing import publications
from . import provider_backoffs
from .start import attempt_of, load

jobs, steps, attempts, dead_letters = Job.__table__, Step.__table__, Attempt.__table__, DeadLetter.__table__

#: Attempts that may be lost with their worker before the step fails for good.
LOST_BUDGET = 5

Waiting = Literal["failed", "timed_out", "snoozed", "provider_busy", "lost"]
Final = Literal["failed", "timed_out", "cancelled", "lost"]

_CLOSE_ATTEMPT = (
    update(attempts)
    .where(attempts.c.step_id == bindparam("p_step"), attempts.c.run_token == bindparam("p_token"))
    .values(
        outcome=bindparam("p_outcome"),
        error=bindparam("p_error", type_=attempts.c.error.type),
        finished_at=db_now(),
    )
)
_MOVE_JOB = (
    update(jobs)
    .where(jobs.c.id == bindparam("p_job"), jobs.c.finished_at.is_(None))
    .values(status=bindparam("p_status"), current_step=bindparam("p_step"))
    .returning(jobs.c.cancel_requested_at)
)
_COMPLETE_STEP = (
    update(steps)
    .where(
        steps.c.id == bindparam("p_step"), steps.c.status == "running", steps.c.run_token == bindparam("p_run_token")
    )
    .values(
        status="completed",
        output=bindparam("p_output", type_=steps.c.output.type),
        progress=100,
        finished_at=db_now(),
        slot=None,
        worker_id=None,
        error=None,
    )
)
_COMPLETE_JOB = (
    update(jobs)
    .where(jobs.c.id == bindparam("p_job"), jobs.c.finished_at.is_(None))
    .values(status="completed", finished_at=db_now(), current_step=None, error=None)
    .returning(jobs.c.id, jobs.c.account, jobs.c.status, jobs.c.callback_url)
)
_WITH_OUTPUT = _COMPLETE_JOB.values(result=bindparam("p_result", type_=jobs.c.result.type))
#: After a best-effort last step, the result is the output of the last required one.
_WITH_LAST_REQUIRED = _COMPLETE_JOB.values(
    result=select(steps.c.output)
    .where(steps.c.job_id == bindparam("p_job"), steps.c.required)
    .order_by(steps.c.position.desc())
    .limit(1)
    .scalar_subquery()
)
_QUEUE_NEXT = (
    update(steps)
    .where(steps.c.id == bindparam("p_id"), steps.c.status == "pending")
    .values(status="queued", queued_at=db_now())
)
_LET_NEXT_AWAIT = (
    update(steps).where(steps.c.id == bindparam("p_id"), steps.c.status == "pending").values(status="awaiting_approval")
)


def complete(connection: Connection, owned: OwnedAttempt, output: dict[str, Any]) -> Dispatch | None:
    """Keep the output, and queue the next step in the same transaction.

    Returns the next step to hand to Redis; None when none is queued (the job awaits approval, or ended and calls no
    webhook). A job that is to be cancelled ends here if another step would follow.

    Raises:
        OwnershipLost: another attempt owns the step; the caller rolls back.
    """
    status, delivery = _move_on(connection, owned, output)
    known = {"p_step": owned.step_id, "p_run_token": owned.run_token, "p_output": output}
    if not connection.execute(_COMPLETE_STEP, known).rowcount:
        raise owned.ownership_lost()
    _close_attempt(connection, owned, "completed", None)
    if owned.canary or owned.after_failures:
        circuits.completed(connection, owned)
    if status is None:
        record(connection, owned.step_event("completed"))
        endings.end(connection, owned.job, "cancelled")
        return None
    following = _queue_next(connection, owned) or delivery
    record(connection, owned.step_event("completed"), owned.status_event(status))
    return following


def retry(
    connection: Connection,
    owned: OwnedAttempt,
    *,
    outcome: Waiting,
    error: dict[str, Any] | None,
    delay_seconds: float,
    handed_back: bool = False,
    circuit: CircuitPolicy | None = None,
) -> bool:
    """Let the step wait and be tried again. A failure spends an attempt; a snooze, a busy provider and a loss do not.

    A loss counts against a budget of its own, except when the worker handed the step back in an orderly stop. The
    attempt's own message comes back by itself after the delay, so the step counts as dispatched. A canary that fails
    opens its circuit again, whether it has attempts left or not.

    Returns False if the step does not wait: a job that is to be cancelled ends at once, and a last step whose draft was
    edited since its approval awaits approval again.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    spends = outcome in ("failed", "timed_out")
    unapproved = lacks_approval(connection, owned)
    status = "retrying" if spends or outcome == "lost" else "queued"
    values: dict[str, Any] = {
        "status": "awaiting_approval" if unapproved else status,
        "slot": None,
        "worker_id": None,
        "due_at": db_now(delay_seconds) if delay_seconds > 0 and not unapproved else None,
        "queued_at": db_now(),
        # A lost attempt's message may be lost with it: the dispatcher makes sure.
        "dispatched_at": None if outcome == "lost" else db_now(),
        "error": error,
    }
    if not spends:
        values["attempt"] = steps.c.attempt - 1
    if outcome == "lost" and not handed_back:
        values["lost"] = steps.c.lost + 1
    job_status = "awaiting_approval" if unapproved else "queued"
    goes_on = _set_job(connection, owned, job_status, owned.name)
    write_owned(connection, owned, **values)
    _close_attempt(connection, owned, outcome, error)
    if owned.canary and spends and circuit is not None:
        circuits.reopen(connection, owned, circuit)
    if not goes_on:
        record(connection, owned.step_event("cancelled"))
        endings.end(connection, owned.job, "cancelled")
        return False
    record(
        connection,
        owned.step_event(values["status"]),
        owned.status_event(job_status),
    )
    return not unapproved


def lacks_approval(connection: Connection, owned: OwnedAttempt) -> bool:
    """Whether the step needs an approval that its job's draft does not have as it is now. The job is locked by this."""
    if not owned.needs_approval:
        return False
    connection.execute(select(jobs.c.id).where(jobs.c.id == owned.job_id).with_for_update())
    return approvals.is_missing(connection, owned.job_id)


def fail(
    connection: Connection,
    owned: OwnedAttempt,
    *,
    outcome: Final,
    error: dict[str, Any],
    traceback: str | None,
    message: dict[str, Any],
    circuit: CircuitPolicy | None = None,
    refused_scope: str | None = None,
) -> Dispatch | None:
    """End the step for good. A required step ends its job and leaves a dead letter; after another the job goes on.

    It counts as a failure of its tenant queue, by `circuit`; without one nothing is counted. With `refused_scope` the
    cause is a credential that its provider refuses: one alert for all who use it, and no failure of the tenant queue.
    Returns the next step to hand to Redis, if the job goes on.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    error = _with_unknown_outcome(connection, owned, error)
    # Of an unknown outcome more is to be said than that the time was over: it is a failure that somebody looks at.
    status = "timed_out" if outcome == "timed_out" and error["code"] != "outcome_unknown" else "failed"
    _end_or_move_on(connection, owned, status, error)
    write_owned(connection, owned, status=status, error=error, finished_at=db_now(), slot=None, worker_id=None)
    _close_attempt(connection, owned, outcome, error)
    following = _insert_dead_letter(
        connection,
        owned,
        status,
        error,
        traceback=traceback,
        message=message,
        letter_id=new_id(),
        refused_scope=refused_scope,
    )
    if refused_scope is None:
        circuits.failed(connection, owned, circuit, error["code"])
    return following


def fail_waiting(
    connection: Connection, waiting: OwnedAttempt, *, error: dict[str, Any], message: dict[str, Any], letter_id: str
) -> Dispatch | None:
    """End a step for good that waits for a message which will never come; as `fail`, without an attempt to close.

    Raises:
        OwnershipLost: the step does not wait any more.
    """
    error = _with_unknown_outcome(connection, waiting, error)
    _end_or_move_on(connection, waiting, "failed", error)
    changed = connection.execute(
        update(steps)
        .where(
            steps.c.id == waiting.step_id,
            steps.c.run_token == waiting.run_token,
            steps.c.status.in_(("queued", "retrying")),
        )
        .values(status="failed", error=error, finished_at=db_now(), due_at=None)
    ).rowcount
    if not changed:
        raise waiting.ownership_lost()
    return _insert_dead_letter(
        connection, waiting, "failed", error, traceback=None, message=message, letter_id=letter_id
    )


def cancel(connection: Connection, owned: OwnedAttempt) -> None:
    """End the running step because its job was cancelled, and the job with it.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    _with_unknown_outcome(connection, owned, {"code": "cancelled", "message": "the job was cancelled"})
    endings.end(connection, owned.job, "cancelled")
    write_owned(connection, owned, status="cancelled", finished_at=db_now(), slot=None, worker_id=None)
    _close_attempt(connection, owned, "cancelled", None)
    record(connection, owned.step_event("cancelled"))


def time_out_job(connection: Connection, owned: OwnedAttempt) -> None:
    """End the running step because the job's deadline passed.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    error = _with_unknown_outcome(connection, owned, endings.deadline_error(owned.name))
    endings.end_at_deadline(connection, owned.job, owned.name)
    write_owned(connection, owned, status="timed_out", error=error, finished_at=db_now(), slot=None, worker_id=None)
    _close_attempt(connection, owned, "timed_out", error)
    record(connection, owned.step_event("timed_out"))


def lose(
    connection: Connection,
    step_id: str,
    run_token: int,
    *,
    handed_back: bool = False,
    unless_known: str | None = None,
    circuit: CircuitPolicy | None = None,
) -> None:
    """Take a running step from a worker that is dead. Its attempt is `lost`, which has a budget of its own.

    With `handed_back` the worker lives and does not run it; then the budget is not touched. `unless_known` is given for
    an irreversible step, and ends it with `outcome_unknown` (and with this end of its message) if its function may have
    been entered, and its job has no draft, so no ledger records what it did.

    A job that is to be cancelled ends here, because its worker cannot end it.

    Raises:
        OwnershipLost: the step moved on meanwhile.
    """
    found = load(connection, step_id)
    if found is None or found["status"] != "running" or found["run_token"] != run_token:
        raise OwnershipLost(f"step {step_id} is not running as run {run_token} any more")
    owned = attempt_of(found)
    if owned.job["cancel_requested_at"] is not None:
        cancel(connection, owned)
        return
    error = {"code": "lost", "message": f"the worker {found['worker_id']} died while it ran this step"}
    if handed_back:
        error["message"] = f"the worker {found['worker_id']} never began to run it"
        retry(connection, owned, outcome="lost", error=error, delay_seconds=0.0, handed_back=True)
    elif (
        unless_known is not None
        and _may_have_entered(connection, found)
        and publications.load_draft(connection, owned) is None
    ):
        error = {"code": "outcome_unknown", "message": error["message"] + unless_known}
        message = {"args": [owned.step_id]}
        fail(connection, owned, outcome="lost", error=error, traceback=None, message=message, circuit=circuit)
    elif owned.lost + 1 > LOST_BUDGET:
        error["message"] = f"{LOST_BUDGET + 1} attempts in all were lost with their workers; " + error["message"]
        message = {"args": [owned.step_id]}
        fail(connection, owned, outcome="lost", error=error, traceback=None, message=message, circuit=circuit)
    else:
        retry(connection, owned, outcome="lost", error=error, delay_seconds=0.0)


def _may_have_entered(connection: Connection, found: RowMapping) -> bool:
    """Whether the function of a running irreversible step may have been entered."""
    if found["entered_token"] == found["run_token"]:
        return True
    return not workers.records_entry(connection, found["worker_id"])


# --- shared --------------------------------------------------------------------------------------------------------


def _end_or_move_on(connection: Connection, owned: OwnedAttempt, status: str, error: dict[str, Any]) -> None:
    """What a step's final failure does to its job."""
    if owned.required:
        job_error = {"code": error["code"], "message": error["message"], "step": owned.name}
        endings.end(connection, owned.job, status, error=job_error, failed_step=owned.name)
    else:
        job_status, _ = _move_on(connection, owned, None)  # the dispatcher loop finds a delivery within a second
        if job_status is None:
            endings.end(connection, owned.job, "cancelled")
        else:
            record(connection, owned.status_event(job_status))


def _insert_dead_letter(
    connection: Connection,
    owned: OwnedAttempt,
    status: str,
    error: dict[str, Any],
    *,
    traceback: str | None,
    message: dict[str, Any],
    letter_id: str,
    refused_scope: str | None = None,
) -> Dispatch | None:
    """After a final failure: the dead letter of a required step, or the step after one that was best effort."""
    record(connection, owned.step_event(status))
    if refused_scope is not None:
        provider_backoffs.refuse(connection, refused_scope, error["message"])
        alerts.provider_refused(connection, owned, scope=refused_scope)
    if not owned.required:
        return _queue_next(connection, owned)
    letter = _dead_letter(owned, error, traceback, message, letter_id)
    connection.execute(insert(dead_letters).values(**letter, created_at=db_now()))
    if refused_scope is None:
        alerts.dead_letter(connection, letter, step=owned.name)
    return None


def _with_unknown_outcome(connection: Connection, owned: OwnedAttempt, error: dict[str, Any]) -> dict[str, Any]:
    """The error of a step that ends for good; when it leaves a publish started, nobody knows what became of that."""
    if not unknown_outcomes.mark_unknown(connection, [owned.job_id], error["message"]):
        return error
    return {
        "code": "outcome_unknown",
        "message": f"a publish was started, and its outcome is unknown: {error['message']}",
    }


def _move_on(
    connection: Connection, owned: OwnedAttempt, output: dict[str, Any] | None
) -> tuple[str | None, Dispatch | None]:
    """Move the job to its next step, or complete it; gives back its status, and the webhook's delivery if it ended.

    `output` is None after a failure. The status is None if the job is to be cancelled: the caller ends it.
    """
    if owned.following is None:
        return owned.status_after, _complete_job(connection, owned, output)
    status = owned.status_after
    return status if _set_job(connection, owned, status, owned.following.name) else None, None


def _complete_job(connection: Connection, owned: OwnedAttempt, output: dict[str, Any] | None) -> Dispatch | None:
    known: dict[str, Any] = {"p_job": owned.job_id}
    statement = _WITH_LAST_REQUIRED
    if owned.required and output is not None:
        statement, known = _WITH_OUTPUT, {**known, "p_result": output}
    ended = connection.execute(statement, known).mappings().all()
    queued = webhook_deliveries.enqueue(connection, ended)
    return queued[0] if queued else None


def _set_job(connection: Connection, owned: OwnedAttempt, status: str, step: str) -> bool:
    """Set the status of a job that goes on; False if it is to be cancelled, so that the caller ends it.

    The job's row is locked from here on. A cancellation before that saw a running step, and left the end to it.
    """
    moved = connection.execute(_MOVE_JOB, {"p_job": owned.job_id, "p_status": status, "p_step": step})
    row = moved.one_or_none()
    return row is None or row.cancel_requested_at is None


def _queue_next(connection: Connection, owned: OwnedAttempt) -> Dispatch | None:
    if owned.following is None:
        return None
    statement = _LET_NEXT_AWAIT if owned.following_awaits_approval else _QUEUE_NEXT
    queued = connection.execute(statement, {"p_id": owned.following.id}).rowcount
    return owned.following if queued and not owned.following_awaits_approval else None


def _close_attempt(connection: Connection, owned: OwnedAttempt, outcome: str, error: dict[str, Any] | None) -> None:
    connection.execute(
        _CLOSE_ATTEMPT,
        {"p_step": owned.step_id, "p_token": owned.run_token, "p_outcome": outcome, "p_error": error},
    )


def _dead_letter(
    owned: OwnedAttempt, error: dict[str, Any], traceback: str | None, message: dict[str, Any], letter_id: str
) -> dict[str, Any]:
    return {
        "id": letter_id,
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
