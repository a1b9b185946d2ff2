"""A worker process: stock Dramatiq `Worker` over the tenant broker, one actor per step.

The order of the start matters: guard and zygote first, before any thread or connection exists; then the row that says
that this worker lives; then claims. The order of the stop: no more claims; the running steps may finish within the
grace; what still runs is handed back; the row is closed, if nothing runs; guard last.
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
from tenants.database import Database
from tenants.errors import Unavailable
from tenants.queues import current_message
from tenants.store import workers as store

from .availability import StoppedWaiting, when_available
from .execution import Execution
from .guard import Guard
from .heap import freeze_heap
from .isolation.environment import allowed_environment
from .liveness import Liveness
from .metrics import REGISTRY
from .runtime import Runtime
from .sandbox import Sandbox
from .schema import missing_revisions
from .settings import Settings, SettingsError

log = logging.getLogger(__name__)

#: The exit status of a worker that ended itself because it may no longer run steps; whoever started it starts another.
EXIT_UNFIT = 70
#: How long a stopping worker waits for its threads, once their steps were to end: for the kills and for the outcomes.
PATIENCE_SECONDS = 6.0
#: The same where it may not run steps any more; within the guard's own grace, which ends with the worker's death.
UNFIT_PATIENCE_SECONDS = 2.0
#: How long after its steps were ended for its silence a worker is killed by its guard, with what runs in its threads.
WORKER_GRACE_SECONDS = 2.0
#: What `ctx.clients` imports at first use. Loaded once here, because each step's child would pay for it again: the
#: Gemini SDK alone takes 1.5 s of processor time.
PRELOADED_CLIENTS = frozenset(f"actors.clients.{name}" for name in ("browser", "gemini", "http", "publishers.pages"))


def run_worker(
    settings: Settings,
    *,
    lanes: Sequence[str] | None = None,
    threads: int | None = None,
    may_begin: threading.Event | None = None,
) -> int:
    """Run a worker until SIGTERM or SIGINT; gives back the exit status.

    `may_begin` is set once database and Redis may be used; what needs neither is started before.

    Raises:
        SettingsError, PipelineError, PublisherError: it cannot start; the message says what to correct.
    """
    process = WorkerProcess(settings, lanes=lanes, threads=threads or settings.threads, may_begin=may_begin)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
    return process.run()


class WorkerProcess:
    """What `run_worker` runs, with its parts; tests start it in processes of their own."""

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
        self._wanted_stop = threading.Event()
        self._unfit: str | None = None

    def stop(self) -> None:
        """Ask for an orderly stop; safe in a signal handler, and from any thread."""
        self._wanted_stop.set()
        if self._may_begin is not None:
            self._may_begin.set()

    def give_up(self, reason: str) -> None:
        """End soon, because this worker may no longer run steps."""
        if self._unfit is None:
            self._unfit = reason
            log.error("worker %s ends itself: %s", self.id, reason)
        self._wanted_stop.set()

    def run(self) -> int:
        pipelines = load_pipelines(self.settings.pipelines)
        publishers = load_publishers(self.settings.publishers)
        guard = Guard(on_lost=self.give_up, worker_grace_seconds=WORKER_GRACE_SECONDS)
        guard.start()
        sandbox = self._make_sandbox(pipelines.values(), publishers.values(), guard)
        try:
            sandbox.start()
            if self._may_begin is not None:
                self._may_begin.wait()
            if not self._wanted_stop.is_set():
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
            when_available(runtime.broker.check_server, self._wanted_stop)
            when_available(lambda: _require_schema(runtime.database), self._wanted_stop)
            execution = Execution(runtime, worker_id=self.id, sandbox=sandbox, guard=guard)
            lanes = self._lanes(runtime)
            declare_actors(runtime, execution, lanes)
            when_available(lambda: self._register(runtime, lanes), self._wanted_stop)
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
        liveness = Liveness(self.id, runtime.database, execution, guard, on_unfit=self.give_up, on_superseded=self.stop)
        liveness.start()
        worker = Worker(runtime.broker, queues=set(lanes), worker_threads=self._threads, worker_timeout=200)
        freeze_heap()
        worker.start()
        log.info("worker %s serves %s with %d threads", self.id, ", ".join(lanes), self._threads)
        try:
            self._wanted_stop.wait()
            self._stop_in_order(worker, execution)
        finally:
            liveness.stop()
            self._leave(runtime, execution, guard)

    def _leave(self, runtime: Runtime, execution: Execution, guard: Guard) -> None:
        """Note the orderly stop, if nothing runs any more.

        What nothing can end, a step in a thread, ends with this process and not before. Until then its row must say
        that this worker may live: with the stop noted, the step would run elsewhere within two seconds, beside itself.
        """
        if not execution.is_idle:
            log.warning("worker %s leaves %d step(s) that it cannot end; they end with it", self.id, execution.busy)
            return
        try:
            runtime.database.write(lambda connection: store.stop(connection, self.id))
        except Unavailable as error:
            log.warning("worker %s has stopped, and the database does not know: %s", self.id, error)
        guard.heartbeat.stand_down()  # last: a database that does not even refuse would hold up the leave for ever

    def _stop_in_order(self, worker: Worker, execution: Execution) -> None:
        grace = 0.0 if self._unfit else self.settings.shutdown_grace_seconds
        log.info("worker %s stops: %d step(s) may finish within %.0f s", self.id, execution.busy, grace)
        timer = threading.Timer(grace, execution.hand_back_all)
        timer.daemon = True
        timer.start()
        try:
            # Ends claims first, then waits for the threads; `hand_back_all` bounds that wait, except where a step in a
            # thread goes on. If this worker may not run it any more, that one must end, and does so with the process.
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
    """Refuse a schema that lacks what this release needs.

    Raises:
        Unavailable: it does, or the database cannot be reached; a migration may come at any time.
        NewerRelease: the data belong to a release that this one does not understand.
    """
    missing = missing_revisions(database)
    if missing:
        raise Unavailable(f"the database lacks {len(missing)} migration(s): waiting for `onelane migrate`")


@contextlib.contextmanager
def _metrics_served(settings: Settings) -> Iterator[None]:
    """What steps take and how they end is counted in this process, so it is scraped here."""
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
