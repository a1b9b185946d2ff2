"""What comes of an attempt: its outcome is written to SQL, and the message is told what it does when it is settled.

Invariants
- SQL is written before the message is settled: an output is durable before anybody hears that it is done.
- Only SQL counts attempts. Whatever happens to the message, the step's row decides when it runs again.
- An outcome is written again until it is, or until the attempt is no longer this worker's.
"""

from __future__ import annotations

import logging
import random
import time
import traceback as tracebacks
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from actors import Pipeline
from actors.errors import StepError
from actors.step import MAX_OUTPUT_BYTES
from tenants.database import CommitUnknown, Database
from tenants.errors import OwnershipLost, Unavailable
from tenants.queues import LeasedMessage
from tenants.storable import fault_of
from tenants.store import circuits, dispatch, outcomes, ownership, provider_backoffs, publications
from tenants.store.attempt import REFUSAL_SECONDS, OwnedAttempt
from tenants.store.circuits import CircuitPolicy

from . import metrics
from .dispatch import Dispatcher
from .effects import OUTCOME_UNKNOWN_HINT, is_irreversible
from .isolation.frames import plain_json
from .isolation.outcome import Cancelled, Completed, Crashed, Failed, Lost, Outcome, OutOfMemory, Signalled, TimedOut
from .settings_sync import SettingsSync

log = logging.getLogger(__name__)

#: Seconds between tries to write an outcome while the database is away; the worker's own liveness bounds them all.
WRITE_RETRY_SECONDS = 1.0

#: Why an attempt was ended from outside: its job was cancelled, or the worker stops in order.
EndedFor = Literal["cancel", "handback"]


class OutcomeWriter:
    """Writes the outcomes of one worker process; any of its threads may."""

    def __init__(
        self,
        database: Database,
        pipelines: Mapping[str, Pipeline],
        dispatcher: Dispatcher,
        settings_sync: SettingsSync,
        circuit: CircuitPolicy | None,
    ) -> None:
        self._database = database
        self._pipelines = pipelines
        self._dispatcher = dispatcher
        self._queue_settings = settings_sync
        self._circuit = circuit

    def write(
        self,
        owned: OwnedAttempt,
        outcome: Outcome,
        why_ended: EndedFor | None,
        message: LeasedMessage,
        *,
        entered: bool = True,
    ) -> None:
        """Write the outcome, again and again while the database is away: work that is done must not be lost.

        The attempt stays this worker's meanwhile; if the worker cannot renew its liveness either, its process ends
        itself, the attempt is `lost`, and the guarded write would be refused anyway. `why_ended` is None for an
        attempt that was not ended from outside; `entered` is False if the function of an irreversible step was not
        entered, so that it can simply run again.
        """
        outcome = _checked(outcome)
        _warn_of_failure(owned, outcome)
        perhaps_written = False
        while True:
            try:
                self._decide(owned, outcome, why_ended, message, entered)
                return
            except OwnershipLost as error:
                if perhaps_written:
                    log.warning("step %s has an outcome: a commit took effect whose answer was lost", owned.step_id)
                else:
                    metrics.REFUSED_WRITES.inc()
                    log.warning("%s", error)
                # The step may wait for this very message, after a retry that was written without our hearing of it.
                self._let_come_back(owned, message, REFUSAL_SECONDS)
                return
            except CommitUnknown as error:
                perhaps_written = True
                log.warning("whether the outcome of step %s is written is not known: %s", owned.step_id, error)
            except Unavailable as error:
                log.warning("the outcome of step %s is not written yet: %s", owned.step_id, error)
                time.sleep(WRITE_RETRY_SECONDS)
            except Exception as error:
                if isinstance(outcome, Failed) and outcome.code == "internal":
                    raise
                log.exception("the outcome of step %s cannot be written", owned.step_id)
                text = f"its outcome could not be written: {type(error).__name__}"
                outcome = Failed("internal", text, tracebacks.format_exc()[-16_000:], True)

    def _decide(
        self, owned: OwnedAttempt, outcome: Outcome, why_ended: EndedFor | None, message: LeasedMessage, entered: bool
    ) -> None:
        match outcome:
            case Completed():
                self._complete(owned, outcome.value, message)
            case Cancelled() if why_ended == "cancel":
                self._record(owned, "cancelled")
                self._database.write(lambda connection: outcomes.cancel(connection, owned))
            case Cancelled():
                text = "the worker was stopped; the step was handed back"
                if not (entered and self._gave_up(owned, "lost", text, message)):
                    self._wait(owned, "lost", {"code": "lost", "message": text}, 0.0, message, handed_back=True)
            case Signalled():
                self._steer(owned, outcome, message)
            case TimedOut() if owned.deadline_seconds is not None and outcome.time_limit < self._limit_of(owned):
                self._record(owned, "timed_out")
                self._database.write(lambda connection: outcomes.time_out_job(connection, owned))
            case TimedOut():
                if not (entered and self._gave_up(owned, "timed_out", outcome.message, message)):
                    self._fail(owned, "timed_out", "timed_out", outcome.message, "", False, message)
            case Failed():
                self._fail(
                    owned,
                    "failed",
                    outcome.code,
                    outcome.message,
                    outcome.traceback,
                    outcome.permanent,
                    message,
                    refused_scope=outcome.refused_scope,
                )
            case Crashed() | OutOfMemory():
                code = "crashed" if isinstance(outcome, Crashed) else "out_of_memory"
                if not (entered and self._gave_up(owned, "failed", outcome.message, message)):
                    self._fail(owned, "failed", code, outcome.message, "", False, message)
            case Lost():
                if not (entered and self._gave_up(owned, "lost", outcome.message, message)):
                    self._wait(owned, "lost", {"code": "lost", "message": outcome.message}, 0.0, message)

    def _gave_up(self, owned: OwnedAttempt, outcome: Any, text: str, message: LeasedMessage) -> bool:
        """End a step for good that was cut off and of which nobody can tell what it did; False for any other."""
        if not is_irreversible(self._pipelines, owned.pipeline, owned.name):
            return False
        if self._database.read(lambda connection: publications.load_draft(connection, owned)) is not None:
            return False  # the ledger tells, and the next attempt looks there first
        self._fail(owned, outcome, "outcome_unknown", text + OUTCOME_UNKNOWN_HINT, "", True, message)
        return True

    def _complete(self, owned: OwnedAttempt, output: Any, message: LeasedMessage) -> None:
        following = ownership.complete(self._database, owned, output)
        self._record(owned, "completed")
        if owned.canary:
            self._queue_settings.sync_account(owned.account)  # its circuit is closed
        if following is not None:
            self._dispatcher.send([following])

    def _steer(self, owned: OwnedAttempt, signalled: Signalled, message: LeasedMessage) -> None:
        data = signalled.data
        reason = str(data.get("reason", ""))
        match signalled.kind:
            case "retry":
                self._fail(owned, "failed", StepError.code, reason, "", False, message, after=data.get("after"))
            case "reject":
                self._fail(owned, "failed", str(data.get("code", "rejected")), reason, "", True, message)
            case "snooze":
                delay = (datetime.fromisoformat(data["until"]) - datetime.now(UTC)).total_seconds()
                self._wait(owned, "snoozed", {"code": "snoozed", "message": reason}, max(0.0, delay), message)
            case "provider_busy":
                scope = str(data["scope"])
                delay = self._database.write(
                    lambda connection: provider_backoffs.note(connection, scope, data.get("after"), reason)
                )
                # Spread the comeback a little: everybody who uses the credential waits for the same moment.
                delay += random.uniform(0, min(5.0, 0.1 * delay))
                self._wait(owned, "provider_busy", {"code": "provider_busy", "message": reason}, delay, message)

    def _fail(
        self,
        owned: OwnedAttempt,
        outcome: Any,
        code: str,
        text: str,
        traceback: str,
        permanent: bool,
        message: LeasedMessage,
        after: float | None = None,
        refused_scope: str | None = None,
    ) -> None:
        """Try again after the backoff, or end the step for good."""
        error = {"code": code, "message": text}
        if not permanent and (owned.attempt < owned.max_attempts or self._lacks_approval(owned)):
            self._wait(owned, outcome, error, self._backoff(owned) if after is None else after, message)
            return
        following = self._database.write(
            lambda connection: outcomes.fail(
                connection,
                owned,
                outcome=outcome,
                error=error,
                traceback=traceback or None,
                message=message.asdict(),
                circuit=self._circuit,
                refused_scope=refused_scope,
            )
        )
        self._record(owned, outcome)
        self._tell_redis_of_circuit(owned)
        if following is not None:
            self._dispatcher.send([following])

    def _lacks_approval(self, owned: OwnedAttempt) -> bool:
        """Its draft was edited meanwhile: that is no failure to end the job with; the step awaits approval again."""
        if not owned.needs_approval:
            return False
        return self._database.write(lambda connection: outcomes.lacks_approval(connection, owned))

    def _wait(
        self,
        owned: OwnedAttempt,
        outcome: Any,
        error: dict[str, Any],
        delay: float,
        message: LeasedMessage,
        *,
        handed_back: bool = False,
    ) -> None:
        waits = self._database.write(
            lambda connection: outcomes.retry(
                connection,
                owned,
                outcome=outcome,
                error=error,
                delay_seconds=delay,
                handed_back=handed_back,
                circuit=self._circuit,
            )
        )
        self._record(owned, outcome)
        if owned.canary:
            self._tell_redis_of_circuit(owned)
        if waits:
            self._let_come_back(owned, message, delay)

    def _tell_redis_of_circuit(self, owned: OwnedAttempt) -> None:
        """Pause the tenant queue in Redis too, if this failure has opened its circuit."""
        if self._circuit is None:
            return
        try:
            found = self._database.read(lambda connection: circuits.of_lane(connection, owned.lane, owned.account))
        except Unavailable as error:
            # The outcome is written, and that is what counts: Redis hears of the pause at the first refused start.
            log.warning("whether a circuit of account %r has opened is not known: %s", owned.account, error)
            return
        if found is not None:
            self._queue_settings.sync_account(owned.account)

    def _let_come_back(self, owned: OwnedAttempt, message: LeasedMessage, delay: float) -> None:
        """Let the step's message come back; when Redis has lost it, have another one sent.

        A rebuild of Redis sends what waits, and this step was running then.
        """
        if not message.reschedule(delay):
            self._database.write(lambda connection: dispatch.unmark_dispatched(connection, owned.step_id))

    def _record(self, owned: OwnedAttempt, outcome: str) -> None:
        metrics.ATTEMPTS.labels(owned.lane, owned.pipeline, owned.name, outcome).inc()

    def _limit_of(self, owned: OwnedAttempt) -> float:
        return self._pipelines[owned.pipeline].step(owned.name).time_limit

    def _backoff(self, owned: OwnedAttempt) -> float:
        """Exponential with full jitter, capped: attempt n waits up to least * 2**(n-1), at most the greatest."""
        least, greatest = self._pipelines[owned.pipeline].step(owned.name).backoff
        ceiling = min(greatest, least * 2 ** min(owned.attempt - 1, 30))
        return random.uniform(ceiling / 2, ceiling)


def _checked(outcome: Outcome) -> Outcome:
    """The outcome, or a permanent failure in its place where the step's output cannot be kept."""
    fault = _fault_of(outcome.value) if isinstance(outcome, Completed) else None
    return outcome if fault is None else Failed(StepError.code, fault, "", True)


def _fault_of(output: Any) -> str | None:
    """Why a step's output cannot be kept; None when it can."""
    if not isinstance(output, dict):
        return f"the step returned {type(output).__name__}; a step returns a dict of plain data"
    try:
        size = len(plain_json(output))
    except (TypeError, ValueError, RecursionError) as error:
        return f"the step returned what JSON cannot hold: {error}"
    if size > MAX_OUTPUT_BYTES:
        return f"the step returned {size} bytes of JSON, where {MAX_OUTPUT_BYTES} are allowed"
    fault = fault_of(output)
    return None if fault is None else f"the step returned what cannot be kept: {fault}"


def _warn_of_failure(owned: OwnedAttempt, outcome: Outcome) -> None:
    """Leave one line of a failed attempt in the worker's log, with all that one must know to look further."""
    failure = _failure_of(outcome)
    if failure is None:
        return
    code, text, traceback = failure
    step = f"{owned.pipeline}.{owned.name}"
    log.warning(
        "attempt %d of %d of step %s of job %s (account %r) failed: %s: %s",
        owned.attempt,
        owned.max_attempts,
        step,
        owned.job_id,
        owned.account,
        code,
        " ".join(text.split())[:500],
        extra={
            "account": owned.account,
            "job": owned.job_id,
            "step": step,
            "attempt": owned.attempt,
            "code": code,
            "traceback": traceback,
        },
    )


def _failure_of(outcome: Outcome) -> tuple[str, str, str] | None:
    """Code, message and traceback of an outcome that is a failure; None for any other."""
    match outcome:
        case Failed():
            return outcome.code, outcome.message, outcome.traceback
        case Signalled(kind="retry"):
            return StepError.code, str(outcome.data.get("reason", "")), ""
        case Signalled(kind="reject"):
            return str(outcome.data.get("code", "rejected")), str(outcome.data.get("reason", "")), ""
        case TimedOut():
            return "timed_out", outcome.message, ""
        case Crashed():
            return "crashed", outcome.message, ""
        case OutOfMemory():
            return "out_of_memory", outcome.message, ""
        case Lost():
            return "lost", outcome.message, ""
        case Completed() | Cancelled() | Signalled():
            return None
