"""A step's run from claim to settle: start → run → have the outcome written, and the message told what it does next.

Invariants
- The step's process tree is gone before its outcome is written, and so before the lease is freed.
- No message is lost to an error of ours: whatever goes wrong here, it comes back, and SQL says what is left to do.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import traceback as tracebacks
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from actors import Pipeline
from actors.clients.publishers import KnownPublisher
from actors.context import StepContext
from actors.errors import ProviderRefused, StepError
from actors.signals import Signal
from actors.step import Step
from tenants.database import Database
from tenants.errors import OnelaneError, OwnershipLost, Unavailable
from tenants.queues import LeasedMessage
from tenants.sessions import Sessions
from tenants.store import outcomes, ownership, workers
from tenants.store.attempt import REFUSAL_SECONDS, NotRunnable, OwnedAttempt, Refused

from . import metrics
from .circuits import circuit_policy
from .dispatch import Dispatcher
from .guard import Guard, GuardLost
from .isolation.outcome import Completed, Failed, Lost, Outcome, Signalled
from .isolation.spare_process import SpareProcess
from .isolation.step_run import StepCall
from .outcome_writer import EndedFor, OutcomeWriter
from .sandbox import Sandbox, SandboxUnavailable
from .settings import Settings
from .settings_sync import SettingsSync
from .step_journal import JournalWriter, StepJournal
from .step_port import ENTER, StepPort
from .webhooks import Webhooks

log = logging.getLogger(__name__)

#: When a message comes back after an error that should not be.
UNEXPECTED_SECONDS = 5.0
#: When it comes back after no process could be had for its step.
NO_PROCESS_SECONDS = 5.0


@dataclass(slots=True)
class Running:
    """One attempt under way in this process, and the ways to end it."""

    owned: OwnedAttempt
    cancelled: threading.Event
    #: The process that was reserved for it; None for a step in a thread.
    process: SpareProcess | None = None
    #: False if the function of an irreversible step was not entered.
    entered: bool = True
    #: Why it was ended from outside; None while it runs.
    why: EndedFor | None = None


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
        settings_sync: SettingsSync,
        webhooks: Webhooks,
        sandbox: Sandbox | None,
        publishers: Mapping[str, KnownPublisher] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._worker_id = worker_id
        self._database = database
        self._pipelines = pipelines
        self._outcomes = OutcomeWriter(database, pipelines, dispatcher, settings_sync, circuit_policy(settings))
        self._sessions = sessions
        self._settings = settings
        self._queue_settings = settings_sync
        self._webhooks = webhooks
        self._sandbox = sandbox
        self._guard = guard
        self._publishers = publishers or {}
        self._journals = JournalWriter()
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

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and no start is under way."""
        with self._state:
            return not self._running and not self._starting

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

    def _end(self, step_id: str, why: EndedFor) -> None:
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

    def run(self, step_id: str, message: LeasedMessage, *, isolated: bool = False) -> None:
        """Run the step that a claimed message names, and say what the message does when it is settled.

        `isolated`: it runs in a process, which is then taken before the step is started.
        """
        try:
            with self._process_for(isolated) as process:
                self._run(step_id, message, process)
        except (SandboxUnavailable, GuardLost) as error:
            log.error("step %s was not started, because there is no process for it: %s", step_id, error)
            message.reschedule(NO_PROCESS_SECONDS)
        except Exception:
            # Raised, it would bury the message, while the step waits for it.
            log.exception("step %s met an error of the worker's own; its message comes back", step_id)
            message.reschedule(UNEXPECTED_SECONDS)

    def _process_for(self, isolated: bool) -> AbstractContextManager[SpareProcess | None]:
        if not isolated or self._sandbox is None or self._stopping.is_set():
            return nullcontext()
        return self._sandbox.reserve()

    def _run(self, step_id: str, message: LeasedMessage, process: SpareProcess | None) -> None:
        started = self._begin(step_id, message.slot, process)
        match started:
            case None:
                message.reschedule(0.0)
            case NotRunnable():
                log.debug("step %s has nothing to run: %s", step_id, started.reason)
            case Refused():
                metrics.REFUSED_STARTS.labels(message.lane).inc()
                message.reschedule(started.seconds)
                if started.redis_stale and message.account is not None:
                    self._queue_settings.sync_account(message.account)
            case Running():
                self._run_owned(started.owned, started, message)

    def _begin(self, step_id: str, slot: int, process: SpareProcess | None) -> Running | Refused | NotRunnable | None:
        """Start the step; at every moment it is among those that start or those that run, so it is no stray.

        None if the worker stops: once it counts as idle, it may not start anything.
        """
        with self._state:
            if self._stopping.is_set():
                return None
            self._starting.add(step_id)
        try:
            started = self._start(step_id, slot)
            if not isinstance(started, OwnedAttempt):
                return started
            running = Running(started, threading.Event(), process)
            with self._state:
                self._running[step_id] = running
            return running
        finally:
            with self._state:
                self._starting.discard(step_id)

    def _start(self, step_id: str, slot: int) -> OwnedAttempt | Refused | NotRunnable:
        try:
            return ownership.start(self._database, step_id, worker_id=self._worker_id, slot=slot)
        except Unavailable as error:
            # Whether it started may be open; if it did, nobody runs it, and `hand_back_strays` gives it back.
            log.warning("step %s could not be started: %s", step_id, error)
            return Refused("the database is away", 2 * REFUSAL_SECONDS)

    def _run_owned(self, owned: OwnedAttempt, running: Running, message: LeasedMessage) -> None:
        if self._stopping.is_set():
            self._end(owned.step_id, "handback")
        if owned.canary:
            # The rest of the queue waits for what comes of it; Redis has let the queue go, because its time had come.
            self._queue_settings.sync_account(owned.account)
        began = time.monotonic()
        journal = StepJournal(owned, self._database, self._journals.add)
        try:
            outcome = self._perform(owned, running, journal)
            metrics.STEP_SECONDS.labels(owned.lane, owned.pipeline, owned.name).observe(time.monotonic() - began)
            journal.flush()  # its lines stand before its end
            self._outcomes.write(owned, outcome, running.why, message, entered=running.entered)
        finally:
            journal.close()
            with self._state:
                self._running.pop(owned.step_id, None)

    def _perform(self, owned: OwnedAttempt, running: Running, journal: StepJournal) -> Outcome:
        """Run the step's function, isolated as it was declared; whatever happens, an outcome comes of it."""
        try:
            pipeline = self._pipelines[owned.pipeline]
            step = pipeline.step(owned.name)
        except KeyError as error:
            return Failed("internal", f"this worker has not loaded it: {error}", "", True)
        limit = step.time_limit
        if owned.deadline_seconds is not None:
            limit = max(0.05, min(limit, owned.deadline_seconds))
        port = StepPort(
            owned,
            self._database,
            self._sessions,
            self._settings,
            self._queue_settings,
            self._webhooks,
            journal,
            uses=step.uses,
            publishers=self._publishers,
            check_worker=self._check_worker,
        )
        context = _wire_context(owned, limit)
        if step.isolation == "thread":
            return _perform_here(step, pipeline, context, port)
        return self._perform_isolated(owned, step, pipeline, context, port, limit, running)

    def _check_worker(self) -> None:
        """Refuse what a step asks of a worker that was stopped for too long, or cannot reach the database.

        Its steps are being ended, and may run elsewhere by now. A step in a thread has nothing but this between the
        moment at which its process is continued and that process' end.

        Raises:
            OwnershipLost: this worker's liveness has not been renewed in time.
        """
        if self._guard is None or (silent := self._guard.heartbeat.silent_seconds) <= self._guard.silence_seconds:
            return
        raise OwnershipLost(
            f"worker {self._worker_id} has not renewed its liveness for {silent:.1f} s: its steps may run elsewhere"
        )

    def _perform_isolated(
        self,
        owned: OwnedAttempt,
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
            enter=ENTER if step.effect == "irreversible" else None,
        )
        try:
            outcome = self._sandbox.run(call, port.call, running.cancelled, port.send, process=running.process)
        except (SandboxUnavailable, GuardLost) as error:
            return _not_begun(owned, str(error))
        if call.enter is not None:
            running.entered = port.entered
        return outcome if port.kept_out is None else _not_begun(owned, port.kept_out)


def _not_begun(owned: OwnedAttempt, reason: str) -> Outcome:
    log.error("step %s could not begin: %s", owned.step_id, reason)
    return Signalled("snooze", {"reason": reason, "until": _in_seconds(NO_PROCESS_SECONDS)})


def _hand_back(connection: Connection, *, step_id: str, run_token: int) -> None:
    outcomes.lose(connection, step_id, run_token, handed_back=True)


def _perform_here(step: Step, pipeline: Pipeline, context: dict[str, Any], port: StepPort) -> Outcome:
    """Run a step in this thread. P4 does not hold for it: nothing can end it at its limit."""
    try:
        ctx: StepContext[Any] = StepContext.from_wire(context, pipeline.input, port)
        try:
            return Completed(step(ctx))
        finally:
            ctx.close()
    except Signal as signal:
        return Signalled(signal.signal_kind, signal.data())  # type: ignore[arg-type]
    except OwnershipLost as error:
        return Lost(str(error))
    except StepError as error:
        scope = error.scope if isinstance(error, ProviderRefused) else None
        return Failed(error.code, str(error), tracebacks.format_exc(), error.permanent, scope)
    except OnelaneError as error:  # the worker's own answer to a call, with a code
        return Failed(error.code, str(error), tracebacks.format_exc()[-16_000:], False)
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}"
        return Failed(StepError.code, text, tracebacks.format_exc()[-16_000:], False)


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
