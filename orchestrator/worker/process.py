"""A worker process: Dramatiq's own `Worker` over the tenant broker, with one actor per step.

Start, in this order: guard and zygote, before any thread or connection exists; the worker's row in SQL; claims.
Stop: claims end; running steps may finish within the grace; the others are handed back; the row is closed if no step
runs; the guard ends last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence

import dramatiq
from dramatiq.worker import Worker
from prometheus_client import start_http_server

from actors import Pipeline
from actors.clients.publishers import KnownPublisher, load_publishers
from actors.extras import importable
from actors.pipeline import load_pipelines
from actors.step import Step
from tenants.database.transactions import Database
from tenants.errors import Unavailable
from tenants.queues import current_message
from tenants.store import workers as store

from ..availability import StoppedWaiting, when_available
from ..heap import freeze_heap
from ..isolation.environment import allowed_environment
from ..isolation.guard import Guard
from ..isolation.sandbox import Sandbox
from ..local.schema import missing_revisions
from ..metrics import REGISTRY
from ..runtime import Runtime
from ..settings import Settings, SettingsError
from .execution import Execution
from .heartbeat import Liveness

log = logging.getLogger(__name__)

#: The exit status of a worker that ended itself because it may not run steps; its supervisor starts another.
EXIT_UNFIT = 70
#: How long a stopping worker waits for its threads after the grace: for the kills and for the outcomes.
PATIENCE_SECONDS = 6.0
#: The same for a worker that may not run steps: less than the guard's grace, after which the worker is killed.
UNFIT_PATIENCE_SECONDS = 2.0
#: How long after the end of its steps the guard kills a silent worker, and with it the steps in its threads.
WORKER_GRACE_SECONDS = 2.0
#: Modules that `ctx.clients` imports at first use. They are loaded once in the zygote, because each child would load
#: them again: the Gemini SDK alone takes 1.5 s of processor time.
PRELOADED_CLIENTS = frozenset(f"actors.clients.{name}" for name in ("browser", "gemini", "http", "publishers.pages"))


def run_worker(
    settings: Settings,
    *,
    lanes: Sequence[str] | None = None,
    threads: int | None = None,
    may_begin: threading.Event | None = None,
) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit status.

    `may_begin` is set when database and Redis may be used; guard and zygote start before.

    Raises:
        SettingsError, PipelineError, PublisherError: it cannot start; the message says what to correct.
    """
    process = WorkerProcess(settings, lanes=lanes, threads=threads or settings.threads, may_begin=may_begin)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
    return process.run()


class WorkerProcess:
    """One worker. `run` it once, in the main thread of its process."""

    def __init__(
        self,
        settings: Settings,
        *,
        lanes: Sequence[str] | None,
        threads: int,
        may_begin: threading.Event | None = None,
    ) -> None:
        self.settings = settings
        self._may_begin = may_begin
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._only = tuple(lanes) if lanes else settings.lanes
        self._threads = threads
        self._stop_requested = threading.Event()
        self._unfit: str | None = None

    def stop(self) -> None:
        """Request an orderly stop; safe in a signal handler, and from any thread."""
        self._stop_requested.set()
        if self._may_begin is not None:
            self._may_begin.set()

    def stop_unfit(self, reason: str) -> None:
        """Stop without a grace, because this worker may not run steps."""
        if self._unfit is None:
            self._unfit = reason
            log.error("worker %s ends itself: %s", self.id, reason)
        self._stop_requested.set()

    def run(self) -> int:
        pipelines = load_pipelines(self.settings.pipelines)
        publishers = load_publishers(self.settings.publishers)
        guard = Guard(on_lost=self.stop_unfit, worker_grace_seconds=WORKER_GRACE_SECONDS)
        guard.start()
        sandbox = self._make_sandbox(pipelines.values(), publishers.values(), guard)
        try:
            sandbox.start()
            if self._may_begin is not None:
                self._may_begin.wait()
            if not self._stop_requested.is_set():
                with _metrics_served(self.settings):
                    self._serve(guard, sandbox)
        finally:
            sandbox.stop()
            guard.stop()
        return EXIT_UNFIT if self._unfit else 0

    def _make_sandbox(
        self, pipelines: Iterable[Pipeline], publishers: Iterable[KnownPublisher], guard: Guard
    ) -> Sandbox:
        loaded = list(pipelines)
        modules = {step.module for pipeline in loaded for step in pipeline.steps}
        modules |= {pipeline.input.__module__ for pipeline in loaded} | PRELOADED_CLIENTS
        modules |= {publisher.module for publisher in publishers}
        return Sandbox(
            scratch_dir=self.settings.data_dir / "scratch",
            preload=sorted(importable(modules)),
            environment=allowed_environment(os.environ),
            guard=guard,
        )

    def _serve(self, guard: Guard, sandbox: Sandbox) -> None:
        runtime = Runtime(self.settings, worker_id=self.id)
        try:
            when_available(runtime.broker.check_server, self._stop_requested)
            when_available(lambda: _require_schema(runtime.database), self._stop_requested)
            execution = Execution(runtime, worker_id=self.id, sandbox=sandbox, guard=guard)
            lanes = self._lanes(runtime)
            declare_actors(runtime, execution, lanes)
            when_available(lambda: self._register(runtime, lanes), self._stop_requested)
            self._claim_until_stopped(runtime, execution, guard, lanes)
        except StoppedWaiting as error:
            log.info("worker %s stops before it has started: %s", self.id, error)
        finally:
            runtime.close()

    def _register(self, runtime: Runtime, lanes: Sequence[str]) -> None:
        store.register_surely(
            runtime.database,
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            lanes=lanes,
            threads=self._threads,
        )

    def _claim_until_stopped(self, runtime: Runtime, execution: Execution, guard: Guard, lanes: Sequence[str]) -> None:
        liveness = Liveness(
            self.id, runtime.database, execution, guard, on_unfit=self.stop_unfit, on_superseded=self.stop
        )
        liveness.start()
        worker = Worker(runtime.broker, queues=set(lanes), worker_threads=self._threads, worker_timeout=200)
        freeze_heap()
        worker.start()
        log.info("worker %s serves %s with %d threads", self.id, ", ".join(lanes), self._threads)
        try:
            self._stop_requested.wait()
            self._stop_in_order(worker, execution)
        finally:
            liveness.stop()
            self._record_stop(runtime, execution, guard)

    def _record_stop(self, runtime: Runtime, execution: Execution, guard: Guard) -> None:
        """Record the orderly stop in the worker's row, unless a step still runs.

        A step in a thread ends only with this process. Until then the worker must not be recorded as stopped: the step
        would be started elsewhere within two seconds, while it still runs here.
        """
        if not execution.is_idle:
            log.warning("worker %s cannot end %d step(s) in threads; they end with it", self.id, execution.busy)
            return
        try:
            runtime.database.write(lambda connection: store.stop(connection, self.id))
        except Unavailable as error:
            log.warning("worker %s has stopped, but could not record it in the database: %s", self.id, error)
        guard.heartbeat.stand_down()  # last: until then the guard ends a worker that hangs in the write above

    def _stop_in_order(self, worker: Worker, execution: Execution) -> None:
        grace = 0.0 if self._unfit else self.settings.shutdown_grace_seconds
        log.info("worker %s stops: %d step(s) may finish within %.0f s", self.id, execution.busy, grace)
        timer = threading.Timer(grace, execution.hand_back_all)
        timer.daemon = True
        timer.start()
        try:
            # Ends claims, then waits for the threads. `hand_back_all` ends their steps, except a step in a thread,
            # which ends with the process.
            patience = UNFIT_PATIENCE_SECONDS if self._unfit else PATIENCE_SECONDS
            worker.stop(timeout=int((grace + patience) * 1000))
        finally:
            timer.cancel()

    def _lanes(self, runtime: Runtime) -> list[str]:
        unknown = sorted(set(self._only or ()) - set(runtime.lanes))
        if unknown:
            raise ValueError(
                f"no loaded pipeline uses lane(s) {', '.join(unknown)}; there are {', '.join(runtime.lanes)}"
            )
        return sorted(self._only) if self._only else runtime.lanes


def _require_schema(database: Database) -> None:
    """Check that the schema has this release's migrations.

    Raises:
        Unavailable: it lacks some, or the database cannot be reached.
        NewerRelease: the data belong to a newer, incompatible release.
    """
    missing = missing_revisions(database)
    if missing:
        raise Unavailable(f"the database lacks {len(missing)} migration(s): waiting for `onelane migrate`")


@contextlib.contextmanager
def _metrics_served(settings: Settings) -> Iterator[None]:
    """Serve this process's metrics: the durations and outcomes of steps are counted here."""
    if settings.worker_metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.worker_metrics_port, settings.host, REGISTRY)
    except OSError as error:
        where = f"{settings.host}:{settings.worker_metrics_port}"
        raise SettingsError(
            [f"ONELANE_WORKER_METRICS_PORT: nothing can listen on {where}: {error.strerror}"]
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def declare_actors(runtime: Runtime, execution: Execution, lanes: Sequence[str]) -> None:
    """One Dramatiq actor per step, named ``pipeline.step``, with the step's id as its argument."""
    for pipeline in runtime.pipelines.values():
        for step in pipeline.steps:
            if step.lane in lanes:
                _declare(runtime, execution, pipeline, step)


def _declare(runtime: Runtime, execution: Execution, pipeline: Pipeline, step: Step) -> None:
    def run(step_id: str) -> None:
        message = current_message()
        if message is None:
            raise RuntimeError(f"step {step_id} was called outside a worker; make a job instead")
        execution.run(step_id, message, isolated=step.isolation == "process")

    declare = dramatiq.actor(actor_name=pipeline.actor_name(step), queue_name=step.lane, broker=runtime.broker)
    declare(run)


if __name__ == "__main__":
    sys.exit(run_worker(Settings.load()))
