"""Writes the outcome of an attempt to SQL, and reschedules its message if the step must run again.

Invariants
- SQL is written before the message is settled, so an output is durable before the step counts as done in Redis.
- Only SQL counts attempts. Whatever happens to the message, the step's row decides when it runs again.
- Writing is retried until it succeeds, or until another attempt owns the step.
"""

from __future__ import annotations

import logging
import random
import time
import traceback as tracebacks
from datetime import UTC, datetime
from typing import Any, Literal

from actors.errors import InvalidCall, StepError
from actors.step import check_output
from tenants.database.transactions import CommitUnknown
from tenants.errors import OwnershipLost, Unavailable
from tenants.queues import LeasedMessage
from tenants.storable import fault_of
from tenants.store import dispatch
from tenants.store.accounts import circuits
from tenants.store.attempt import REFUSAL_SECONDS, Failure, OwnedAttempt
from tenants.store.job_store import job_store
from tenants.store.publishing import publications
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import provider_backoffs

from .. import metrics
from ..control.circuits import circuit_policy
from ..isolation.outcome import Cancelled, Completed, Crashed, Failed, Lost, Outcome, OutOfMemory, Signalled, TimedOut
from ..runtime import Runtime
from .effects import OUTCOME_UNKNOWN_HINT, is_irreversible

log = logging.getLogger(__name__)

#: Seconds between tries to write an outcome while the database is away; the worker's own liveness bounds them all.
WRITE_RETRY_SECONDS = 1.0

#: Why an attempt was ended from outside: its job was cancelled, or the worker stops in order.
EndedFor = Literal["cancel", "handback"]


class OutcomeWriter:
    """Writes the outcomes of one worker process; safe to use from all of its threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._store = job_store(runtime.database)
        self._pipelines = runtime.pipelines
        self._dispatcher = runtime.dispatcher
        self._settings_sync = runtime.settings_sync
        self._circuit = circuit_policy(runtime.settings)

    def write(
        self,
        owned: OwnedAttempt,
        outcome: Outcome,
        ended_for: EndedFor | None,
        message: LeasedMessage,
        *,
        entered: bool = True,
    ) -> None:
        """Write the outcome. Retries while the database is away, because finished work must not be lost.

        The attempt stays this worker's meanwhile. If the worker cannot renew its liveness either, its process ends, the
        attempt is `lost`, and the guarded write would be refused. `entered` is False if the function of an irreversible
        step was not entered, so that it can run again.
        """
        outcome = _checked(outcome)
        _log_failure(owned, outcome)
        may_be_written = False
        while True:
            try:
                self._write_once(owned, outcome, ended_for, message, entered)
                return
            except OwnershipLost as error:
                if may_be_written:
                    log.warning("step %s already has an outcome: the answer to its commit was lost", owned.step_id)
                else:
                    metrics.REFUSED_WRITES.inc()
                    log.warning("%s", error)
                # The step may wait for this message, if a retry was committed and the answer was lost.
                self._reschedule(owned, message, REFUSAL_SECONDS)
                return
            except CommitUnknown as error:
                may_be_written = True
                log.warning("it is not known whether the outcome of step %s is written: %s", owned.step_id, error)
            except Unavailable as error:
                log.warning("the outcome of step %s is not written yet: %s", owned.step_id, error)
                time.sleep(WRITE_RETRY_SECONDS)
            except Exception as error:
                if isinstance(outcome, Failed) and outcome.code == "internal":
                    raise
                log.exception("the outcome of step %s cannot be written", owned.step_id)
                text = f"its outcome could not be written: {type(error).__name__}"
                outcome = Failed("internal", text, tracebacks.format_exc()[-16_000:], True)

    def _write_once(
        self, owned: OwnedAttempt, outcome: Outcome, ended_for: EndedFor | None, message: LeasedMessage, entered: bool
    ) -> None:
        match outcome:
            case Completed():
                self._complete(owned, outcome.value)
            case Cancelled() if ended_for == "cancel":
                self._count(owned, "cancelled")
                self._database.write(lambda connection: finish_steps.cancel(connection, owned))
            case TimedOut() if owned.deadline_seconds is not None and outcome.time_limit < self._limit_of(owned):
                self._count(owned, "timed_out")
                self._database.write(lambda connection: finish_steps.time_out_job(connection, owned))
            case Signalled(kind="snooze"):
                delay = (datetime.fromisoformat(outcome.data["until"]) - datetime.now(UTC)).total_seconds()
                self._wait(owned, "snoozed", _error("snoozed", _reason(outcome)), max(0.0, delay), message)
            case Signalled(kind="provider_busy"):
                self._wait_for_provider(owned, outcome, message)
            case Cancelled() | Lost():
                handed_back = isinstance(outcome, Cancelled)
                text = "the worker was stopped; the step was handed back" if handed_back else outcome.message
                if not (entered and self._fail_if_outcome_unknown(owned, Failure("lost", "lost", text), message)):
                    self._wait(owned, "lost", _error("lost", text), 0.0, message, handed_back=handed_back)
            case _:
                failure = failure_of(outcome)
                assert failure is not None
                cut_off = entered and isinstance(outcome, TimedOut | Crashed | OutOfMemory)
                if not (cut_off and self._fail_if_outcome_unknown(owned, failure, message)):
                    after = outcome.data.get("after") if isinstance(outcome, Signalled) else None
                    self._fail(owned, failure, message, after=after)

    def _fail_if_outcome_unknown(self, owned: OwnedAttempt, failure: Failure, message: LeasedMessage) -> bool:
        """Fail a cut-off step for good if its effect cannot be determined. Returns whether it did."""
        if not is_irreversible(self._pipelines, owned.pipeline, owned.name):
            return False
        if self._database.read(lambda connection: publications.load_draft(connection, owned)) is not None:
            return False  # it has a ledger, and the next attempt checks that first
        text = failure.message + OUTCOME_UNKNOWN_HINT
        self._fail(owned, Failure(failure.outcome, "outcome_unknown", text, permanent=True), message)
        return True

    def _complete(self, owned: OwnedAttempt, output: Any) -> None:
        following = self._store.complete(owned, output)
        self._count(owned, "completed")
        if owned.canary:
            self._settings_sync.sync_account(owned.account)  # its circuit is closed
        if following is not None:
            self._dispatcher.send([following])

    def _wait_for_provider(self, owned: OwnedAttempt, signalled: Signalled, message: LeasedMessage) -> None:
        scope, after, reason = str(signalled.data["scope"]), signalled.data.get("after"), _reason(signalled)
        delay = self._database.write(lambda connection: provider_backoffs.note(connection, scope, after, reason))
        # A random part, so that the steps that use the credential do not all return at the same moment.
        delay += random.uniform(0, min(5.0, 0.1 * delay))
        self._wait(owned, "provider_busy", _error("provider_busy", reason), delay, message)

    def _fail(
        self, owned: OwnedAttempt, failure: Failure, message: LeasedMessage, *, after: float | None = None
    ) -> None:
        """Retry after `after` seconds, or the backoff; without a further attempt, fail the step for good."""
        error = _error(failure.code, failure.message)
        if not failure.permanent and (owned.attempt < owned.max_attempts or self._lacks_approval(owned)):
            self._wait(owned, failure.outcome, error, self._backoff(owned) if after is None else after, message)
            return
        following = self._database.write(
            lambda connection: finish_steps.fail(
                connection,
                owned,
                outcome=failure.outcome,
                error=error,
                traceback=failure.traceback or None,
                message=message.asdict(),
                circuit=self._circuit,
                refused_scope=failure.refused_scope,
            )
        )
        self._count(owned, failure.outcome)
        self._sync_circuit(owned)
        if following is not None:
            self._dispatcher.send([following])

    def _lacks_approval(self, owned: OwnedAttempt) -> bool:
        """Its draft was edited after the approval: the step must await approval again, and the job must not fail."""
        if not owned.needs_approval:
            return False
        return self._database.write(lambda connection: finish_steps.lacks_approval(connection, owned))

    def _wait(
        self,
        owned: OwnedAttempt,
        outcome: finish_steps.Waiting,
        error: dict[str, Any],
        delay: float,
        message: LeasedMessage,
        *,
        handed_back: bool = False,
    ) -> None:
        waits = self._database.write(
            lambda connection: finish_steps.retry(
                connection,
                owned,
                outcome=outcome,
                error=error,
                delay_seconds=delay,
                handed_back=handed_back,
                circuit=self._circuit,
            )
        )
        self._count(owned, outcome)
        if owned.canary:
            self._sync_circuit(owned)
        if waits:
            self._reschedule(owned, message, delay)

    def _sync_circuit(self, owned: OwnedAttempt) -> None:
        """Pause the tenant queue in Redis too, if this failure has opened its circuit."""
        if self._circuit is None:
            return
        try:
            found = self._database.read(lambda connection: circuits.of_lane(connection, owned.lane, owned.account))
        except Unavailable as error:
            # The outcome is already written; the first refused start updates Redis.
            log.warning("it is not known whether a circuit of account %r has opened: %s", owned.account, error)
            return
        if found is not None:
            self._settings_sync.sync_account(owned.account)

    def _reschedule(self, owned: OwnedAttempt, message: LeasedMessage, delay: float) -> None:
        """Reschedule the step's message; if Redis has lost it, have the dispatcher send another.

        A rebuild of Redis sends the waiting steps, and this one was running then.
        """
        if not message.reschedule(delay):
            self._database.write(lambda connection: dispatch.unmark_dispatched(connection, owned.step_id))

    def _count(self, owned: OwnedAttempt, outcome: str) -> None:
        metrics.ATTEMPTS.labels(owned.lane, owned.pipeline, owned.name, outcome).inc()

    def _limit_of(self, owned: OwnedAttempt) -> float:
        return self._pipelines[owned.pipeline].step(owned.name).time_limit

    def _backoff(self, owned: OwnedAttempt) -> float:
        """Exponential with equal jitter: attempt n waits up to least * 2**(n-1), at most the greatest."""
        least, greatest = self._pipelines[owned.pipeline].step(owned.name).backoff
        ceiling = min(greatest, least * 2 ** min(owned.attempt - 1, 30))
        return random.uniform(ceiling / 2, ceiling)


def _checked(outcome: Outcome) -> Outcome:
    """The outcome; a permanent failure instead if the step's output cannot be kept."""
    if not isinstance(outcome, Completed):
        return outcome
    try:
        check_output(outcome.value)
        fault = fault_of(outcome.value)
    except InvalidCall as error:
        return Failed(StepError.code, str(error), "", True)
    if fault is None:
        return outcome
    return Failed(StepError.code, f"the step returned what cannot be kept: {fault}", "", True)


def _log_failure(owned: OwnedAttempt, outcome: Outcome) -> None:
    failure = failure_of(outcome)
    if failure is None:
        return
    step = f"{owned.pipeline}.{owned.name}"
    log.warning(
        "attempt %d of %d of step %s of job %s (account %r) failed: %s: %s",
        owned.attempt,
        owned.max_attempts,
        step,
        owned.job_id,
        owned.account,
        failure.code,
        " ".join(failure.message.split())[:500],
        extra={
            "account": owned.account,
            "job": owned.job_id,
            "step": step,
            "attempt": owned.attempt,
            "code": failure.code,
            "traceback": failure.traceback,
        },
    )


def failure_of(outcome: Outcome) -> Failure | None:
    """The failure that an outcome is; None for any other outcome."""
    match outcome:
        case Failed():
            return Failure(
                "failed",
                outcome.code,
                outcome.message,
                outcome.traceback,
                permanent=outcome.permanent,
                refused_scope=outcome.refused_scope,
            )
        case Signalled(kind="retry"):
            return Failure("failed", StepError.code, _reason(outcome))
        case Signalled(kind="reject"):
            return Failure("failed", str(outcome.data.get("code", "rejected")), _reason(outcome), permanent=True)
        case TimedOut():
            return Failure("timed_out", "timed_out", outcome.message)
        case Crashed():
            return Failure("failed", "crashed", outcome.message)
        case OutOfMemory():
            return Failure("failed", "out_of_memory", outcome.message)
        case Lost():
            return Failure("lost", "lost", outcome.message)
        case Completed() | Cancelled() | Signalled():
            return None


def _reason(signalled: Signalled) -> str:
    return str(signalled.data.get("reason", ""))


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}
