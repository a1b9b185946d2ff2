"""Runs steps in processes of their own and returns an outcome for each.

`orchestrator.isolation` draws the processes: the zygote forks one child for each step, the step supervisor ends the
step's process tree at its limit, and the guard does it when the worker fails. `StepRun` is the worker's side of one
running step, in the thread that called `run`.

Invariants
- When `run` returns, the step's process tree is proved gone and its TMPDIR removed, so the lease may be freed.
- A child sees only the allowed environment variables, and no descriptor of the worker.
- A process runs one call. Warm spares are processes that were forked before they were needed.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from actors.step import MAX_OUTPUT_BYTES
from orchestrator.isolation.environment import check_environment
from orchestrator.isolation.frames import plain_json
from orchestrator.isolation.guard import Guard, GuardLost
from orchestrator.isolation.outcome import Cancelled, Outcome
from orchestrator.isolation.process_tree import ProcessId, identify, is_running
from orchestrator.isolation.spare_process import SpareProcess
from orchestrator.isolation.step_run import Note, Serve, StepCall, StepRun
from orchestrator.isolation.step_supervisor import remove_directory
from orchestrator.isolation.zygote_link import PreloadFailed, SpareProcessGone, ZygoteGone, ZygoteLink

logger = logging.getLogger(__name__)

MAX_CALL_BYTES = 16 << 20
#: Cancelled jobs are looked up once a second, also without Redis; together both stay below two seconds.
CANCEL_GRACE_SECONDS = 0.5
_OWNER_DIRECTORY = re.compile(r"steps-(\d+)-(\d+(?:\.\d+)?)")


class SandboxUnavailable(RuntimeError):
    """No process can be started for a step now. The step has not begun: hand it back."""


class Sandbox:
    """Runs steps in processes. `run` may be called from any number of threads at once.

    `environment` is the children's, made by `allowed_environment`. `guard` must be running; its owner stops it after
    `stop`. `warm_spares` is the number of forked processes that wait for a step.
    """

    def __init__(
        self,
        *,
        scratch_dir: Path,
        preload: Sequence[str],
        environment: Mapping[str, str],
        guard: Guard,
        warm_spares: int = 1,
        cancel_grace_seconds: float = CANCEL_GRACE_SECONDS,
        max_result_bytes: int = MAX_OUTPUT_BYTES,
        max_call_bytes: int = MAX_CALL_BYTES,
    ) -> None:
        check_environment(environment)
        self._scratch_dir = scratch_dir.absolute()
        self._own_directory: Path | None = None
        self._preload = tuple(preload)
        self._environment = dict(environment)
        self._guard = guard
        self._warm_spares = warm_spares
        self._cancel_grace_seconds = cancel_grace_seconds
        self._max_result_bytes = max_result_bytes
        self._max_call_bytes = max_call_bytes
        self._state = threading.Condition(threading.RLock())
        self._spares: list[SpareProcess] = []
        self._zygote: ZygoteLink | None = None
        self._running = 0
        self._stopping = threading.Event()

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, or None before `start` and after `stop`."""
        zygote = self._zygote
        return None if zygote is None else zygote.pid

    @property
    def running(self) -> int:
        """How many calls of `run` are under way."""
        return self._running

    def start(self) -> None:
        """Load the steps' modules and fork the first spares. Call it as early as possible in the worker's life.

        Raises:
            PreloadFailed: a module cannot be imported; the message has its traceback.
            SandboxUnavailable: the zygote died.
        """
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self._scratch_dir)
        self._own_directory = self._make_own_directory()
        try:
            with self._state:
                self._live_zygote()
        except ZygoteGone as error:
            raise SandboxUnavailable(f"the steps' process pool could not be started: {error}") from None
        self._refill()

    @contextmanager
    def reserve(self) -> Iterator[SpareProcess]:
        """A process for a call of `run`. If no call uses it, it becomes a spare.

        Reserve it before the step is started in the database: a step that was started and waits for a process would
        count as running, and be lost with its worker.

        Raises:
            SandboxUnavailable: no process can be forked now.
            GuardLost: there is no guard, so no step may run.
        """
        if self._stopping.is_set():
            raise SandboxUnavailable("the worker is stopping")
        if self._guard.lost:
            raise GuardLost("no guard process: steps cannot be started")
        process = self._take_process()
        try:
            yield process
        finally:
            self._keep_or_close(process)

    def run(
        self,
        call: StepCall,
        serve: Serve,
        cancelled: threading.Event,
        note: Note = lambda name, payload: None,
        *,
        process: SpareProcess | None = None,
    ) -> Outcome:
        """Run one attempt. Returns its outcome after its process tree is gone.

        `process` comes from `reserve`; if it is None or has died, another is taken. `serve(name, payload)` answers the
        step's calls, in this thread, with JSON data; its exceptions reach the step as errors with the exception's
        `code`. `note(name, payload)` takes the step's one-way messages, in this thread too, including those sent
        before it was killed. Setting `cancelled` refuses further calls at once and ends the step after a short grace.

        Raises:
            SandboxUnavailable: the step has not begun, because no process could be forked.
            GuardLost: the step has not begun, because there is no guard.
            ValueError: the call's context is not JSON data, or too large.
        """
        size = len(plain_json(call.context))
        if size > self._max_call_bytes:
            raise ValueError(f"step {call.key}: its context has {size} bytes, {self._max_call_bytes} are allowed")
        with self._state:
            if self._stopping.is_set():
                raise SandboxUnavailable("the worker is stopping")
            self._running += 1
        try:
            if cancelled.is_set():
                return Cancelled()
            return self._run_in(self._usable(process), call, serve, note, cancelled)
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()

    def stop(self) -> None:
        """End running steps (their outcome is `Cancelled`), then the spares and the zygote."""
        self._stopping.set()
        with self._state:
            while self._running:
                self._state.wait()
            spares, self._spares = self._spares, []
            zygote, self._zygote = self._zygote, None
        for spare in spares:
            spare.close()
        if zygote is not None:
            zygote.close()
        if self._own_directory is not None:
            remove_directory(self._own_directory)

    def _run_in(
        self, process: SpareProcess, call: StepCall, serve: Serve, note: Note, cancelled: threading.Event
    ) -> Outcome:
        try:
            tmpdir = self._make_tmpdir(call.key)
        except OSError as error:
            process.close()
            raise SandboxUnavailable(f"no directory can be made for a step: {error}") from None
        try:
            self._guard.register(call.key, process.ready(), call.time_limit)
            step_run = StepRun(
                process,
                self._guard,
                call,
                str(tmpdir),
                cancel_grace_seconds=self._cancel_grace_seconds,
                serve=serve,
                note=note,
                cancelled=cancelled,
                stopping=self._stopping,
            )
            process.used = True
            step_run.start(max_result_bytes=self._max_result_bytes, max_call_bytes=self._max_call_bytes)
            self._refill()  # after the step has started, so that it does not wait for the fork
            return step_run.supervise()
        except ZygoteGone as error:
            raise SandboxUnavailable(f"the process for a step has gone: {error}") from None
        finally:
            self._guard.forget(call.key)
            process.close()
            remove_directory(tmpdir)

    def _take_process(self) -> SpareProcess:
        """A waiting spare or a new process. A zygote that cannot fork is replaced once."""
        is_last_try = False
        while True:
            zygote = process = None
            is_spare = False
            try:
                with self._state:
                    zygote = self._live_zygote()
                    is_spare = bool(self._spares)
                    process = self._spares.pop() if is_spare else SpareProcess(zygote, self._max_call_bytes)
                process.ready()
                return process
            except (PreloadFailed, OSError) as error:
                if process is not None:
                    process.close()
                raise SandboxUnavailable(f"no process can be started for a step: {error}") from None
            except ZygoteGone as error:
                logger.warning("forking a process for a step failed: %s", error)
                if process is not None:
                    process.close()
                if is_spare and isinstance(error, SpareProcessGone):
                    continue
                with self._state:
                    self._drop_zygote(zygote)
                if is_last_try:
                    raise SandboxUnavailable(f"no process can be forked for a step: {error}") from None
                is_last_try = True

    def _usable(self, process: SpareProcess | None) -> SpareProcess:
        if process is not None:
            try:
                process.ready()
                return process
            except ZygoteGone:
                process.close()
        return self._take_process()

    def _keep_or_close(self, process: SpareProcess) -> None:
        """Keep a reserved process as a spare if no call has used it."""
        if process.used:
            return
        with self._state:
            if not self._stopping.is_set() and len(self._spares) <= self._warm_spares:
                self._spares.append(process)
                return
        process.close()

    def _live_zygote(self) -> ZygoteLink:
        if self._zygote is None:
            zygote = ZygoteLink(self._preload, self._environment, self._guard)
            try:
                zygote.wait_ready()
            except BaseException:
                zygote.discard()
                raise
            self._zygote = zygote
        return self._zygote

    def _refill(self) -> None:
        """Fork the missing spares, without waiting for them."""
        with self._state:
            zygote = self._zygote
            try:
                while zygote is not None and len(self._spares) < self._warm_spares and not self._stopping.is_set():
                    self._spares.append(SpareProcess(zygote, self._max_call_bytes))
            except (ZygoteGone, OSError) as error:
                logger.warning("no spare can be forked: %s", error)
                self._drop_zygote(zygote)

    def _drop_zygote(self, failed: ZygoteLink | None) -> None:
        """Replace a failed zygote at the next use. Its running steps continue: their supervisors do not need it."""
        if failed is not self._zygote:
            return  # another thread has already replaced it
        for spare in self._spares:
            spare.close()
        self._spares.clear()
        if self._zygote is not None:
            self._zygote.discard()
            self._zygote = None

    def _make_own_directory(self) -> Path:
        me = identify(os.getpid())
        assert me is not None
        directory = self._scratch_dir / f"steps-{me.pid}-{me.started}"
        remove_directory(directory)
        directory.mkdir(mode=0o700)
        self._guard.remove_at_end(str(directory))
        return directory

    def _make_tmpdir(self, key: str) -> Path:
        assert self._own_directory is not None, "start() comes before run()"
        # Short and plain: a step may make sockets in it, and a socket's path has at most 108 bytes.
        name = re.sub(r"[^A-Za-z0-9_-]", "_", key)[:32]
        directory = self._own_directory / f"{name}-{secrets.token_hex(4)}"
        directory.mkdir(mode=0o700)
        return directory


def remove_abandoned(scratch_dir: Path) -> None:
    """Remove the directories of workers that died together with their guard."""
    for directory in scratch_dir.iterdir():
        match = _OWNER_DIRECTORY.fullmatch(directory.name)
        if match is None:
            continue
        with suppress(ValueError):
            if not is_running(ProcessId(int(match[1]), float(match[2]))):
                remove_directory(directory)
