"""The sandbox: runs each step in a process of its own, and returns only when nothing of that process is left.

`docs/decisions/isolation.md` says who starts whom and who ends what. In short: a zygote with the steps' modules
preloaded forks a keeper and a child per step; the keeper ends the step's whole tree at its limit; the guard does it
when the worker fails. The worker's side is one `Conversation` per running step, in the thread that called `run`.

Invariants:
- When `run` returns, the step's process tree is proved gone and its TMPDIR removed, so the lease may be freed.
- A child sees the allow-listed environment only, and no descriptor of the worker.
- A cell runs one call. Warm spares are cells that were forked before they were needed.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.step import MAX_OUTPUT_BYTES
from orchestrator.guard import Guard, GuardLost
from orchestrator.isolation.cell import Cell
from orchestrator.isolation.conversation import Conversation, Note, Serve
from orchestrator.isolation.environment import check_environment
from orchestrator.isolation.frames import plain_json
from orchestrator.isolation.keeper import remove_directory
from orchestrator.isolation.outcome import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Lost,
    Outcome,
    OutOfMemory,
    Signalled,
    TimedOut,
)
from orchestrator.isolation.process_tree import ProcessId, identify, is_running
from orchestrator.isolation.zygote_link import CellGone, PreloadFailed, ZygoteGone, ZygoteLink

__all__ = [
    "Cancelled",
    "Cell",
    "Completed",
    "Crashed",
    "Failed",
    "GuardLost",
    "Lost",
    "OutOfMemory",
    "Outcome",
    "PreloadFailed",
    "Sandbox",
    "SandboxUnavailable",
    "Serve",
    "Signalled",
    "StepCall",
    "TimedOut",
]

logger = logging.getLogger(__name__)

MAX_RESULT_BYTES = MAX_OUTPUT_BYTES
MAX_CALL_BYTES = 16 << 20
#: A look for cancelled jobs comes once a second, also without Redis; together they stay below two seconds.
CANCEL_GRACE_SECONDS = 0.5
_OWNER_DIRECTORY = re.compile(r"steps-(\d+)-(\d+(?:\.\d+)?)")


class SandboxUnavailable(RuntimeError):
    """No process can be started for a step just now. The step has not begun: hand it back."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """One attempt of a step, as plain data."""

    #: Unique per attempt (step id and run token); names the TMPDIR and the log lines.
    key: str
    #: Where the step lives: ``getattr(importlib.import_module(module), function)``.
    module: str
    function: str
    #: What `build_context` makes the step's context from. JSON data.
    context: dict[str, Any]
    #: Seconds. The tree is dead two seconds after them at the latest, and normally a few milliseconds.
    time_limit: float
    #: For all of the step's processes together; None for no limit.
    memory_limit_bytes: int | None = None
    #: ``module:function`` that is called with ``(context, port)`` in the child.
    build_context: str = field(default="orchestrator.isolation.child:build_step_context")
    #: The name of the call by which the child asks to enter the function; None where it need not ask.
    enter: str | None = None


class Sandbox:
    """Runs steps in processes. `run` may be called from any number of threads at once.

    `environment` is what children see, made by `allowed_environment`. `guard` must have been started, and is stopped
    by its owner after `stop`. `warm_spares` is how many forked children wait for their step.
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
        max_result_bytes: int = MAX_RESULT_BYTES,
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
        self._spares: list[Cell] = []
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
        """Load the steps' modules and make the first spares; as early in the worker's life as possible.

        Raises:
            PreloadFailed: a module can't be imported; the message has its traceback.
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
    def reserve(self) -> Iterator[Cell]:
        """A process that waits for a call of `run`; kept for another one where none comes.

        To be had before a step is started in the database: a step that was started and waits for a process would count
        as running, and be lost with its worker.

        Raises:
            SandboxUnavailable: no process can be forked just now.
            GuardLost: there is no guard, so no step may run.
        """
        if self._stopping.is_set():
            raise SandboxUnavailable("the worker is stopping")
        if self._guard.lost:
            raise GuardLost("no guard process: steps can't be started")
        cell = self._take_cell()
        try:
            yield cell
        finally:
            self._keep_or_close(cell)

    def run(
        self,
        call: StepCall,
        serve: Serve,
        cancelled: threading.Event,
        note: Note = lambda name, payload: None,
        *,
        cell: Cell | None = None,
    ) -> Outcome:
        """Run one attempt and return what became of it, after its process tree is gone.

        `cell` is what `reserve` gave; without one, or where it has gone since, a process is taken here.

        `serve(name, payload)` answers the step's calls, in this thread, with JSON data; an exception of it reaches the
        step as an error with the exception's `code`. `note(name, payload)` takes what the step sends without waiting
        for an answer, in this thread too; also what it had sent before it was killed. Setting `cancelled` refuses
        further calls at once and ends the step after a short grace.

        Raises:
            SandboxUnavailable: the step has not begun, because no process could be forked.
            GuardLost: likewise, because there is no guard.
            ValueError: the call's context is not JSON data or too large.
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
            return self._run_in(self._usable(cell), call, serve, note, cancelled)
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()

    def stop(self) -> None:
        """End what still runs (its outcome is `Cancelled`), then the spares and the zygote."""
        self._stopping.set()
        with self._state:
            while self._running:
                self._state.wait()
            spares, self._spares = self._spares, []
            zygote, self._zygote = self._zygote, None
        for cell in spares:
            cell.close()
        if zygote is not None:
            zygote.close()
        if self._own_directory is not None:
            remove_directory(self._own_directory)

    def _run_in(self, cell: Cell, call: StepCall, serve: Serve, note: Note, cancelled: threading.Event) -> Outcome:
        try:
            tmpdir = self._make_tmpdir(call.key)
        except OSError as error:
            cell.close()
            raise SandboxUnavailable(f"no directory can be made for a step: {error}") from None
        try:
            self._guard.register(call.key, _keeper_of(cell), call.time_limit)
            conversation = Conversation(
                cell,
                self._guard,
                call.key,
                str(tmpdir),
                time_limit=call.time_limit,
                memory_limit_bytes=call.memory_limit_bytes,
                cancel_grace_seconds=self._cancel_grace_seconds,
                serve=serve,
                note=note,
                cancelled=cancelled,
                stopping=self._stopping,
            )
            cell.used = True
            conversation.begin(self._wire(call, tmpdir))
            self._refill()  # now that this step no longer waits for it
            return conversation.hold()
        finally:
            self._guard.forget(call.key)
            cell.close()
            remove_directory(tmpdir)

    def _wire(self, call: StepCall, tmpdir: Path) -> dict[str, Any]:
        return {
            "module": call.module,
            "function": call.function,
            "build_context": call.build_context,
            "context": call.context,
            "enter": call.enter,
            "memory_limit_bytes": call.memory_limit_bytes,
            "max_result_bytes": self._max_result_bytes,
            "max_call_bytes": self._max_call_bytes,
            "tmpdir": str(tmpdir),
        }

    def _take_cell(self) -> Cell:
        """A waiting spare or a new cell. A dead zygote is replaced, once."""
        is_last_try = False
        while True:
            zygote = cell = None
            is_spare = False
            try:
                with self._state:
                    zygote = self._live_zygote()
                    is_spare = bool(self._spares)
                    cell = self._spares.pop() if is_spare else Cell(zygote, self._max_call_bytes)
                cell.ready()
                return cell
            except (PreloadFailed, OSError) as error:
                if cell is not None:
                    cell.close()
                raise SandboxUnavailable(f"no process can be started for a step: {error}") from None
            except ZygoteGone as error:
                logger.warning("forking a process for a step failed: %s", error)
                if cell is not None:
                    cell.close()
                if is_spare and isinstance(error, CellGone):
                    continue
                with self._state:
                    self._drop_zygote(zygote)
                if is_last_try:
                    raise SandboxUnavailable(f"no process can be forked for a step: {error}") from None
                is_last_try = True

    def _usable(self, cell: Cell | None) -> Cell:
        if cell is not None:
            try:
                cell.ready()
                return cell
            except ZygoteGone:
                cell.close()
        return self._take_cell()

    def _keep_or_close(self, cell: Cell) -> None:
        """Keep a reserved cell that no step was started for."""
        if cell.used:
            return
        with self._state:
            if not self._stopping.is_set() and len(self._spares) <= self._warm_spares:
                self._spares.append(cell)
                return
        cell.close()

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
        """Have new spares forked, without waiting for them."""
        with self._state:
            zygote = self._zygote
            try:
                while zygote is not None and len(self._spares) < self._warm_spares and not self._stopping.is_set():
                    self._spares.append(Cell(zygote, self._max_call_bytes))
            except (ZygoteGone, OSError) as error:
                logger.warning("no spare can be forked: %s", error)
                self._drop_zygote(zygote)

    def _drop_zygote(self, failed: ZygoteLink | None) -> None:
        """Forget a zygote that fails. Steps that run under it go on: their keepers do not need it."""
        if failed is not self._zygote:
            return  # another thread has replaced it already
        for cell in self._spares:
            cell.close()
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
        # Short and plain, for sockets in it: a socket's path has at most 108 bytes.
        name = re.sub(r"[^A-Za-z0-9_-]", "_", key)[:32]
        directory = self._own_directory / f"{name}-{secrets.token_hex(4)}"
        directory.mkdir(mode=0o700)
        return directory


def _keeper_of(cell: Cell) -> ProcessId:
    try:
        return cell.ready()
    except ZygoteGone as error:
        raise SandboxUnavailable(f"the process for a step has gone: {error}") from None


def remove_abandoned(scratch_dir: Path) -> None:
    """Remove what workers left behind whose guard was killed with them."""
    for directory in scratch_dir.iterdir():
        match = _OWNER_DIRECTORY.fullmatch(directory.name)
        if match is None:
            continue
        with suppress(ValueError):
            if not is_running(ProcessId(int(match[1]), float(match[2]))):
                remove_directory(directory)
