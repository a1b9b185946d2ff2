"""Runs a step from claim to settle: starts it in SQL, runs its function, writes its outcome, reschedules its message.

Invariants
- The step's process tree is gone before its outcome is written, and so before the lease is freed.
- An error of the worker loses no message: the message is rescheduled, and SQL decides what is left to do.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import traceback as tracebacks
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from actors import Pipeline
from actors.context import StepContext
from actors.step import Step
from tenants.errors import OnelaneError, OwnershipLost, Unavailable
from tenants.queues import LeasedMessage
from tenants.store import workers
from tenants.store.attempt import REFUSAL_SECONDS, NotRunnable, OwnedAttempt, Refused
from tenants.store.job_store import job_store
from tenants.store.steps import finish as finish_steps

from .. import metrics
from ..isolation.guard import Guard, GuardLost
from ..isolation.outcome import TRACEBACK_CHARACTERS, Completed, Failed, Lost, Outcome, Signalled, from_error
from ..isolation.sandbox import Sandbox, SandboxUnavailable
from ..isolation.spare_process import SpareProcess
from ..isolation.step_run import StepCall
from ..runtime import Runtime
from .outcome_writer import EndedFor, OutcomeWriter
from .step_journal import JournalWriter, StepJournal
from .step_port import ENTER, StepPort

log = logging.getLogger(__name__)

#: Delay of a message after an unexpected error of the worker.
UNEXPECTED_SECONDS = 5.0
#: Delay of a message whose step could not get a process.
NO_PROCESS_SECONDS = 5.0


@dataclass(slots=True)
class Running:
    """A running attempt of this process."""

    owned: OwnedAttempt
    #: Set to end it.
    cancelled: threading.Event
    #: The process that was reserved for it; None for a step in a thread.
    process: SpareProcess | None = None
    #: False if the function of an irreversible step was not entered.
    entered: bool = True
    #: Why it was ended from outside.
    ended_for: EndedFor | None = None


class Execution:
    """Runs the steps of one worker process. Dramatiq's worker threads call `run`."""

    def __init__(
        self, runtime: Runtime, *, worker_id: str, sandbox: Sandbox | None, guard: Guard | None = None
    ) -> None:
        self._runtime = runtime
        self._database = runtime.database
        self._store = job_store(runtime.database)
        self._worker_id = worker_id
        self._outcomes = OutcomeWriter(runtime)
        self._sandbox = sandbox
        self._guard = guard
        self._journals = JournalWriter()
        self._running: dict[str, Running] = {}
        #: Ids of the steps that a thread is starting.
        self._starting: set[str] = set()
        #: (id, run token) of the steps that the last check found orphaned.
        self._orphaned: set[tuple[str, int]] = set()
        self._state = threading.Lock()
        self._stopping = threading.Event()

    @property
    def busy(self) -> int:
        """The number of running attempts."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """No step runs or is being started."""
        with self._state:
            return not self._running and not self._starting

    def cancel(self, step_id: str) -> None:
        """End a running step because its job was cancelled."""
        self._end(step_id, "cancel")

    def hand_back_all(self) -> None:
        """End all running steps without spending their attempts: the worker stops in order."""
        self._stopping.set()
        for step_id in list(self._running):
            self._end(step_id, "handback")

    def _end(self, step_id: str, ended_for: EndedFor) -> None:
        with self._state:
            running = self._running.get(step_id)
            if running is None or running.ended_for is not None:
                return
            running.ended_for = ended_for
        running.cancelled.set()

    def hand_back_orphaned(self) -> None:
        """Hand back orphaned steps: those that SQL counts as running on this worker, but that do not run.

        The commit of such a step's start took effect, and its answer was lost. The rescuer does not take the step,
        because its worker is alive. A step is handed back when two checks in a row find it orphaned.

        Raises:
            Unavailable: the database cannot be reached.
        """
        rows = self._database.read(lambda connection: workers.running(connection, [self._worker_id]))
        with self._state:
            known = self._starting | self._running.keys()
        orphaned = {(row["id"], row["run_token"]) for row in rows if row["id"] not in known}
        again, self._orphaned = orphaned & self._orphaned, orphaned
        for step_id, run_token in again:
            log.warning("step %s is handed back: SQL counts it as running here, and it does not run", step_id)
            try:
                self._database.write(functools.partial(_hand_back, step_id=step_id, run_token=run_token))
            except OwnershipLost:
                continue  # its job was cancelled meanwhile, or this worker was declared dead

    def run(self, step_id: str, message: LeasedMessage, *, isolated: bool = False) -> None:
        """Run the step of a claimed message, and reschedule the message if the step must run again.

        `isolated`: the step runs in a process, which is reserved before the step is started.
        """
        try:
            with self._process_for(isolated) as process:
                self._run(step_id, message, process)
        except (SandboxUnavailable, GuardLost) as error:
            log.error("step %s was not started, because there is no process for it: %s", step_id, error)
            message.reschedule(NO_PROCESS_SECONDS)
        except Exception:
            # If it were raised, Dramatiq would drop the message, and the step would wait for it.
            log.exception("step %s: unexpected error of the worker; its message is rescheduled", step_id)
            message.reschedule(UNEXPECTED_SECONDS)

    def _process_for(self, isolated: bool) -> AbstractContextManager[SpareProcess | None]:
        if not isolated or self._sandbox is None or self._stopping.is_set():
            return nullcontext()
        return self._sandbox.reserve()

    def _run(self, step_id: str, message: LeasedMessage, process: SpareProcess | None) -> None:
        started = self._start(step_id, message.slot, process)
        match started:
            case None:
                message.reschedule(0.0)
            case NotRunnable():
                log.debug("step %s is not run: %s", step_id, started.reason)
            case Refused():
                metrics.REFUSED_STARTS.labels(message.lane).inc()
                message.reschedule(started.seconds)
                if started.redis_stale and message.account is not None:
                    self._runtime.settings_sync.sync_account(message.account)
            case Running():
                self._run_owned(started, message)

    def _start(self, step_id: str, slot: int, process: SpareProcess | None) -> Running | Refused | NotRunnable | None:
        """Start the step in SQL. It is in `_starting` or `_running` all the time, so it never counts as orphaned.

        None if the worker is stopping: then it may not start a step, because it may already have counted as idle.
        """
        with self._state:
            if self._stopping.is_set():
                return None
            self._starting.add(step_id)
        try:
            started = self._store.start(step_id, worker_id=self._worker_id, slot=slot)
            if not isinstance(started, OwnedAttempt):
                return started
            running = Running(started, threading.Event(), process)
            with self._state:
                self._running[step_id] = running
            return running
        except Unavailable as error:
            # The start may have been committed; then the step is orphaned, and `hand_back_orphaned` finds it.
            log.warning("step %s could not be started: %s", step_id, error)
            return Refused("the database cannot be reached", 2 * REFUSAL_SECONDS)
        finally:
            with self._state:
                self._starting.discard(step_id)

    def _run_owned(self, running: Running, message: LeasedMessage) -> None:
        owned = running.owned
        if self._stopping.is_set():
            self._end(owned.step_id, "handback")
        if owned.canary:
            # The other messages of the queue wait for its outcome; Redis has unpaused the queue at the retry time.
            self._runtime.settings_sync.sync_account(owned.account)
        began = time.monotonic()
        journal = StepJournal(owned, self._database, self._journals.add)
        try:
            outcome = self._perform(running, journal)
            metrics.STEP_SECONDS.labels(owned.lane, owned.pipeline, owned.name).observe(time.monotonic() - began)
            journal.flush()  # its log lines come before its end
            self._outcomes.write(owned, outcome, running.ended_for, message, entered=running.entered)
        finally:
            journal.close()
            with self._state:
                self._running.pop(owned.step_id, None)

    def _perform(self, running: Running, journal: StepJournal) -> Outcome:
        """Run the step's function, isolated as declared."""
        owned = running.owned
        try:
            pipeline = self._runtime.pipelines[owned.pipeline]
            step = pipeline.step(owned.name)
        except KeyError as error:
            return Failed("internal", f"this worker has not loaded it: {error}", "", True)
        limit = step.time_limit
        if owned.deadline_seconds is not None:
            limit = max(0.05, min(limit, owned.deadline_seconds))
        port = StepPort(owned, self._runtime, journal, uses=step.uses, check_worker=self._check_worker)
        context = _wire_context(owned, limit)
        if step.isolation == "thread":
            return _perform_here(step, pipeline, context, port)
        call = StepCall(
            key=f"{owned.step_id}-{owned.run_token}",
            module=step.module,
            function=step.function.__qualname__,
            context={**context, "input_model": f"{pipeline.input.__module__}:{pipeline.input.__qualname__}"},
            time_limit=limit,
            memory_limit_bytes=step.memory_limit or self._runtime.settings.step_memory_limit,
            enter=ENTER if step.effect == "irreversible" else None,
        )
        return self._perform_isolated(running, call, port)

    def _check_worker(self) -> None:
        """Refuse calls of steps while this worker is silent: the steps are being ended, and may already run elsewhere.

        For a step in a thread this is the only protection from the time a stopped worker is continued to its end.

        Raises:
            OwnershipLost: this worker's liveness has not been renewed in time.
        """
        if self._guard is None or (silent := self._guard.heartbeat.silent_seconds) <= self._guard.silence_seconds:
            return
        raise OwnershipLost(
            f"worker {self._worker_id} has not renewed its liveness for {silent:.1f} s: its steps may run elsewhere"
        )

    def _perform_isolated(self, running: Running, call: StepCall, port: StepPort) -> Outcome:
        if self._sandbox is None:
            raise RuntimeError("this worker was started without a sandbox, but the step needs a process of its own")
        try:
            outcome = self._sandbox.run(call, port.call, running.cancelled, port.send, process=running.process)
        except (SandboxUnavailable, GuardLost) as error:
            return _not_begun(running.owned, str(error))
        if call.enter is not None:
            running.entered = port.entered
        return outcome if port.enter_failed is None else _not_begun(running.owned, port.enter_failed)


def _not_begun(owned: OwnedAttempt, reason: str) -> Outcome:
    log.error("step %s could not begin: %s", owned.step_id, reason)
    return Signalled("snooze", {"reason": reason, "until": _in_seconds(NO_PROCESS_SECONDS)})


def _hand_back(connection: Connection, *, step_id: str, run_token: int) -> None:
    finish_steps.lose(connection, step_id, run_token, handed_back=True)


def _perform_here(step: Step, pipeline: Pipeline, context: dict[str, Any], port: StepPort) -> Outcome:
    """Run a step in this thread. Nothing can end it at its time limit."""
    try:
        ctx: StepContext[Any] = StepContext.from_wire(context, pipeline.input, port)
        try:
            return Completed(step(ctx))
        finally:
            ctx.close()
    except OwnershipLost as error:
        return Lost(str(error))
    except OnelaneError as error:  # the worker's refusal of a call
        return Failed(error.code, str(error), tracebacks.format_exc()[-TRACEBACK_CHARACTERS:], False)
    except (Exception, SystemExit) as error:
        return from_error(error)


def _wire_context(owned: OwnedAttempt, limit: float) -> dict[str, Any]:
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
