"""A step's run from claim to settle: start → run → write the outcome → say what the message does next.

Invariants
- SQL is written before the message is settled: an output is durable before anybody hears that it is done.
- The step's process tree is gone before its outcome is written, and so before the lease is freed.
- Only SQL counts attempts. Whatever happens to the message, the step's row decides when it runs again.
- No message is lost to an error of ours: whatever goes wrong here, it comes back, and SQL says what is left to do.
"""

from __future__ import annotations

import functools
import json
import logging
import random
import threading
import time
import traceback as tracebacks
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from actors import Pipeline
from actors.context import StepContext
from actors.errors import StepError
from actors.signals import Signal
from actors.step import Step
from tenants.database import CommitUnknown, Database
from tenants.errors import OwnershipLost, Unavailable
from tenants.queues import LeasedMessage
from tenants.sessions import Sessions
from tenants.store import backoffs, outcomes, ownership, steps, workers
from tenants.store.steps import Gone, Owned, Refused

from . import metrics
from .dispatch import Dispatcher
from .guard import GuardLost
from .queue_settings import QueueSettings
from .sandbox import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Lost,
    Outcome,
    OutOfMemory,
    Sandbox,
    SandboxUnavailable,
    Signalled,
    StepCall,
    TimedOut,
)
from .settings import Settings
from .step_port import StepPort

log = logging.getLogger(__name__)

#: Seconds between tries to write an outcome while the database is away; the worker's own liveness bounds them all.
WRITE_RETRY_SECONDS = 1.0
#: When a message comes back after an error that should not be.
UNEXPECTED_SECONDS = 5.0


@dataclass(slots=True)
class Running:
    """One attempt under way in this process, and the ways to end it."""

    owned: Owned
    cancelled: threading.Event
    #: Why it was ended from outside: `cancel` (the job), `handback` (orderly stop), `deadline`; None while it runs.
    why: str | None = None


class Execution:
    """Runs steps for one worker process; `run` is called by Dramatiq's worker threads."""

    def __init__(
        self,
        *,
        worker_id: str,
        database: Database,
        pipelines: Mapping[str, Pipeline],
        dispatcher: Dispatcher,
        sessions: Sessions,
        settings: Settings,
        queue_settings: QueueSettings,
        sandbox: Sandbox | None,
    ) -> None:
        self._worker_id = worker_id
        self._database = database
        self._pipelines = pipelines
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._settings = settings
        self._queue_settings = queue_settings
        self._sandbox = sandbox
        self._running: dict[str, Running] = {}
        #: Steps that a thread is about to start; and rows that say "running here" although nothing does.
        self._starting: set[str] = set()
        self._strays: set[tuple[str, int]] = set()
        self._state = threading.Lock()
        self._stopping = threading.Event()

    # --- called by others ----------------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """Attempts under way."""
        return len(self._running)

    def running_ids(self) -> list[str]:
        """The ids of the steps under way."""
        return list(self._running)

    def cancel(self, step_id: str) -> None:
        """End a running step because its job was cancelled."""
        self._end(step_id, "cancel")

    def hand_back_all(self) -> None:
        """End what runs and let it wait again, no attempt spent: the worker stops in order."""
        self._stopping.set()
        for step_id in self.running_ids():
            self._end(step_id, "handback")

    def _end(self, step_id: str, why: str) -> None:
        with self._state:
            running = self._running.get(step_id)
            if running is None or running.why is not None:
                return
            running.why = why
        running.cancelled.set()

    def hand_back_strays(self) -> None:
        """Give back steps that run here by SQL and do not: starts whose commit took effect and lost its answer.

        Nobody else would: their worker, this one, is alive. A row must have been a stray twice in a row.

        Raises:
            Unavailable: the database is away.
        """
        rows = self._database.read(lambda connection: workers.running(connection, [self._worker_id]))
        with self._state:
            known = self._starting | self._running.keys()
        strays = {(row["id"], row["run_token"]) for row in rows if row["id"] not in known}
        again, self._strays = strays & self._strays, strays
        for step_id, run_token in again:
            log.warning("step %s is given back: it counts as running here, and does not", step_id)
            try:
                self._database.write(functools.partial(_hand_back, step_id=step_id, run_token=run_token))
            except OwnershipLost:
                continue  # its job was cancelled meanwhile, or this worker was taken for dead

    # --- one step ------------------------------------------------------------------------------------------------

    def run(self, step_id: str, message: LeasedMessage) -> None:
        """Run the step that a claimed message names, and say what the message does when it is settled."""
        try:
            self._run(step_id, message)
        except Exception:
            # Raised, it would bury the message, while the step waits for it.
            log.exception("step %s met an error of the worker's own; its message comes back", step_id)
            message.reschedule(UNEXPECTED_SECONDS)

    def _run(self, step_id: str, message: LeasedMessage) -> None:
        if self._stopping.is_set():
            message.reschedule(0.0)
            return
        started = self._begin(step_id, message.slot)
        match started:
            case Gone():
                log.debug("step %s has nothing to run: %s", step_id, started.reason)
            case Refused():
                metrics.REFUSED_STARTS.labels(message.lane).inc()
                message.reschedule(started.seconds)
            case Running():
                self._run_owned(started.owned, started, message)

    def _begin(self, step_id: str, slot: int) -> Running | Refused | Gone:
        """Start the step; at every moment it is among those that start or those that run, so it is no stray."""
        with self._state:
            self._starting.add(step_id)
        try:
            started = self._start(step_id, slot)
            if not isinstance(started, Owned):
                return started
            running = Running(started, threading.Event())
            with self._state:
                self._running[step_id] = running
            return running
        finally:
            with self._state:
                self._starting.discard(step_id)

    def _start(self, step_id: str, slot: int) -> Owned | Refused | Gone:
        try:
            return ownership.start(self._database, step_id, worker_id=self._worker_id, slot=slot)
        except Unavailable as error:
            # Whether it started may be open; if it did, nobody runs it, and `hand_back_strays` gives it back.
            log.warning("step %s could not be started: %s", step_id, error)
            return Refused("the database is away", 2 * steps.REFUSAL_SECONDS)

    def _run_owned(self, owned: Owned, running: Running, message: LeasedMessage) -> None:
        if self._stopping.is_set():
            self._end(owned.step_id, "handback")
        began = time.monotonic()
        try:
            outcome = self._perform(owned, running)
            metrics.STEP_SECONDS.labels(owned.lane, owned.pipeline, owned.name).observe(time.monotonic() - began)
            self._write_outcome(owned, outcome, running, message)
        finally:
            with self._state:
                self._running.pop(owned.step_id, None)

    def _perform(self, owned: Owned, running: Running) -> Outcome:
        """Run the step's function, isolated as it was declared; whatever happens, an outcome comes of it."""
        try:
            pipeline = self._pipelines[owned.pipeline]
            step = pipeline.step(owned.name)
        except KeyError as error:
            return Failed("internal", f"this worker has not loaded it: {error}", "", True)
        limit = step.time_limit
        if owned.deadline_seconds is not None:
            limit = max(0.05, min(limit, owned.deadline_seconds))
        port = StepPort(owned, self._database, self._sessions, self._settings, self._queue_settings)
        context = _wire_context(owned, limit)
        if step.isolation == "thread":
            return _perform_here(step, pipeline, context, port)
        return self._perform_isolated(owned, step, pipeline, context, port, limit, running)

    def _perform_isolated(
        self,
        owned: Owned,
        step: Step,
        pipeline: Pipeline,
        context: dict[str, Any],
        port: StepPort,
        limit: float,
        running: Running,
    ) -> Outcome:
        if self._sandbox is None:
            raise RuntimeError("this worker was started without a sandbox, but the step needs a process of its own")
        call = StepCall(
            key=f"{owned.step_id}-{owned.run_token}",
            module=step.module,
            function=step.function.__qualname__,
            context={**context, "input_model": f"{pipeline.input.__module__}:{pipeline.input.__qualname__}"},
            time_limit=limit,
            memory_limit_bytes=step.memory_limit or self._settings.step_memory_limit,
        )
        try:
            return self._sandbox.run(call, port.call, running.cancelled)
        except (SandboxUnavailable, GuardLost) as error:
            log.error("step %s could not begin: %s", owned.step_id, error)
            return Signalled("snooze", {"reason": str(error), "until": _in_seconds(5.0)})

    # --- the outcome ---------------------------------------------------------------------------------------------

    def _write_outcome(self, owned: Owned, outcome: Outcome, running: Running, message: LeasedMessage) -> None:
        """Write the outcome, again and again while the database is away: work that is done must not be lost.

        The attempt stays this worker's meanwhile; if the worker cannot renew its liveness either, its process ends
        itself, the attempt is `lost`, and the guarded write would be refused anyway.
        """
        perhaps_written = False
        while True:
            try:
                self._decide(owned, outcome, running, message)
                return
            except OwnershipLost as error:
                if perhaps_written:
                    log.warning("step %s has an outcome: a commit took effect whose answer was lost", owned.step_id)
                else:
                    metrics.REFUSED_WRITES.inc()
                    log.warning("%s", error)
                # The step may wait for this very message, after a retry that was written without our hearing of it.
                message.reschedule(steps.REFUSAL_SECONDS)
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

    def _decide(self, owned: Owned, outcome: Outcome, running: Running, message: LeasedMessage) -> None:
        match outcome:
            case Completed():
                self._complete(owned, outcome.value, message)
            case Cancelled() if running.why == "cancel":
                self._record(owned, "cancelled")
                self._database.write(lambda connection: outcomes.cancel(connection, owned))
            case Cancelled():
                error = {"code": "lost", "message": "the worker was stopped; the step was handed back"}
                self._wait(owned, "lost", error, 0.0, message, handed_back=True)
            case Signalled():
                self._steer(owned, outcome, message)
            case TimedOut() if owned.deadline_seconds is not None and outcome.time_limit < self._limit_of(owned):
                self._record(owned, "timed_out")
                self._database.write(lambda connection: outcomes.time_out_job(connection, owned))
            case TimedOut():
                self._fail(owned, "timed_out", "timed_out", outcome.message, "", False, message)
            case Failed():
                self._fail(
                    owned, "failed", outcome.code, outcome.message, outcome.traceback, outcome.permanent, message
                )
            case Crashed():
                self._fail(owned, "failed", "crashed", outcome.message, "", False, message)
            case OutOfMemory():
                self._fail(owned, "failed", "out_of_memory", outcome.message, "", False, message)
            case Lost():
                error = {"code": "lost", "message": outcome.message}
                self._wait(owned, "lost", error, 0.0, message)

    def _complete(self, owned: Owned, output: Any, message: LeasedMessage) -> None:
        fault = _fault_of(output)
        if fault is not None:
            self._fail(owned, "failed", "internal", fault, "", True, message)
            return
        following = ownership.complete(self._database, owned, output)
        self._record(owned, "completed")
        if following is not None:
            self._dispatcher.send([following])

    def _steer(self, owned: Owned, signalled: Signalled, message: LeasedMessage) -> None:
        data = signalled.data
        reason = str(data.get("reason", ""))
        match signalled.kind:
            case "retry":
                self._fail(owned, "failed", "internal", reason, "", False, message, after=data.get("after"))
            case "reject":
                self._fail(owned, "failed", str(data.get("code", "rejected")), reason, "", True, message)
            case "snooze":
                delay = (datetime.fromisoformat(data["until"]) - datetime.now(UTC)).total_seconds()
                self._wait(owned, "snoozed", {"code": "snoozed", "message": reason}, max(0.0, delay), message)
            case "provider_busy":
                scope = str(data["scope"])
                delay = self._database.write(
                    lambda connection: backoffs.note(connection, scope, data.get("after"), reason)
                )
                # Spread the comeback a little: everybody who uses the credential waits for the same moment.
                delay += random.uniform(0, min(5.0, 0.1 * delay))
                self._wait(owned, "provider_busy", {"code": "provider_busy", "message": reason}, delay, message)

    def _fail(
        self,
        owned: Owned,
        outcome: Any,
        code: str,
        text: str,
        traceback: str,
        permanent: bool,
        message: LeasedMessage,
        after: float | None = None,
    ) -> None:
        """Try again after the backoff, or end the step for good."""
        error = {"code": code, "message": text}
        if not permanent and owned.attempt < owned.max_attempts:
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
            )
        )
        self._record(owned, outcome)
        if following is not None:
            self._dispatcher.send([following])

    def _wait(
        self,
        owned: Owned,
        outcome: Any,
        error: dict[str, Any],
        delay: float,
        message: LeasedMessage,
        *,
        handed_back: bool = False,
    ) -> None:
        self._database.write(
            lambda connection: outcomes.retry(
                connection, owned, outcome=outcome, error=error, delay_seconds=delay, handed_back=handed_back
            )
        )
        self._record(owned, outcome)
        message.reschedule(delay)

    def _record(self, owned: Owned, outcome: str) -> None:
        metrics.ATTEMPTS.labels(owned.lane, owned.pipeline, owned.name, outcome).inc()

    def _limit_of(self, owned: Owned) -> float:
        return self._pipelines[owned.pipeline].step(owned.name).time_limit

    def _backoff(self, owned: Owned) -> float:
        """Exponential with full jitter, capped: attempt n waits up to least * 2**(n-1), at most the greatest."""
        least, greatest = self._pipelines[owned.pipeline].step(owned.name).backoff
        ceiling = min(greatest, least * 2 ** min(owned.attempt - 1, 30))
        return random.uniform(ceiling / 2, ceiling)


def _fault_of(output: Any) -> str | None:
    """Why a step's output cannot be kept; None when it can."""
    if not isinstance(output, dict):
        return f"the step returned {type(output).__name__}; a step returns a dict of plain data"
    try:
        json.dumps(output, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return f"the step returned what JSON cannot hold: {error}"
    return None


def _hand_back(connection: Connection, *, step_id: str, run_token: int) -> None:
    outcomes.lose(connection, step_id, run_token, handed_back=True)


def _perform_here(step: Step, pipeline: Pipeline, context: dict[str, Any], port: StepPort) -> Outcome:
    """Run a step in this thread. P4 does not hold for it: nothing can end it at its limit."""
    try:
        ctx: StepContext[Any] = StepContext.from_wire(context, pipeline.input, port)
        return Completed(step(ctx))
    except Signal as signal:
        return Signalled(signal.signal_kind, signal.data())  # type: ignore[arg-type]
    except OwnershipLost as error:
        return Lost(str(error))
    except StepError as error:
        return Failed(error.code, str(error), tracebacks.format_exc(), error.permanent)
    except Exception as error:
        return Failed("internal", f"{type(error).__name__}: {error}", tracebacks.format_exc()[-16_000:], False)


def _wire_context(owned: Owned, limit: float) -> dict[str, Any]:
    job = owned.job
    return {
        "account": owned.account,
        "job": {
            "id": owned.job_id,
            "pipeline": owned.pipeline,
            "created_at": job["created_at"].isoformat(),
            "tags": job["tags"],
        },
        "input": job["input"],
        "outputs": dict(owned.outputs),
        "attempt": owned.attempt,
        "deadline": _in_seconds(limit),
    }


def _in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
