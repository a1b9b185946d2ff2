"""One running step as the worker's thread sees it: answers the child's calls, and proves that its process tree ended.

Three parts end a tree that is over its limit, each without the others: the step supervisor at once, the guard
`SUPERVISOR_SLACK_SECONDS` later, and this thread `OWN_SLACK_SECONDS` later. All are within two seconds of the limit.

Invariant: `supervise` returns only after the tree and its TMPDIR are gone. A complete result counts even if the limit
was reached before the child could exit: the work was done.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.isolation.frames import FrameError, plain_json, wait
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.outcome import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Lost,
    Outcome,
    OutOfMemory,
    TimedOut,
    from_wire,
)
from orchestrator.isolation.posix import now
from orchestrator.isolation.process_tag import end_tagged, tag_of
from orchestrator.isolation.process_tree import end_tree
from orchestrator.isolation.spare_process import SpareProcess
from orchestrator.isolation.step_supervisor import remove_directory

logger = logging.getLogger(__name__)

#: Answers a call of the step.
Serve = Callable[[str, dict[str, Any]], Any]
#: Takes a one-way message of the step.
Note = Callable[[str, dict[str, Any]], None]

POLL_SECONDS = 0.2
OWN_SLACK_SECONDS = 1.5
PROOF_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class StepCall:
    """One attempt of a step, as plain data."""

    #: Unique per attempt (step id and run token); names the TMPDIR and the log lines.
    key: str
    #: The step is ``getattr(importlib.import_module(module), function)``.
    module: str
    function: str
    #: JSON data from which `build_context` makes the step's context.
    context: dict[str, Any]
    #: Seconds. The tree is dead at most two seconds later, normally a few milliseconds.
    time_limit: float
    #: For all processes of the step together; None for no limit.
    memory_limit_bytes: int | None = None
    #: ``module:function`` that is called with ``(context, port)`` in the child.
    build_context: str = "orchestrator.isolation.child:build_step_context"
    #: The call that the child makes before it enters the function; None if it makes none.
    enter: str | None = None


class StepRun:
    """Runs one call in a spare process: `start`, then `supervise`."""

    def __init__(
        self,
        process: SpareProcess,
        guard: Guard,
        call: StepCall,
        tmpdir: str,
        *,
        cancel_grace_seconds: float,
        serve: Serve,
        note: Note,
        cancelled: threading.Event,
        stopping: threading.Event,
    ) -> None:
        self._process = process
        self._guard = guard
        self._call = call
        self._tmpdir = tmpdir
        self._cancel_grace_seconds = cancel_grace_seconds
        self._serve = serve
        self._note = note
        self._cancelled = cancelled
        self._stopping = stopping
        self._result: Outcome | None = None
        #: The supervisor's report, once the tree has ended.
        self._ended: dict[str, Any] | None = None
        self._cancel_ends_at: float | None = None
        #: Set when this thread ends the tree: the outcome if no result arrives.
        self._verdict: Outcome | None = None
        self._overdue_at = 0.0

    def start(self, *, max_result_bytes: int, max_call_bytes: int) -> None:
        """Send the call to the process."""
        call = self._call
        self._process.supervisor.post(
            {"start": {"limit": call.time_limit, "tmpdir": self._tmpdir, "memory": call.memory_limit_bytes}}
        )
        message = {
            "module": call.module,
            "function": call.function,
            "build_context": call.build_context,
            "context": call.context,
            "enter": call.enter,
            "max_result_bytes": max_result_bytes,
            "max_call_bytes": max_call_bytes,
            "tmpdir": self._tmpdir,
        }
        self._process.control.post({"call": message})
        self._overdue_at = now() + call.time_limit + OWN_SLACK_SECONDS

    def supervise(self) -> Outcome:
        """Serve the call until its tree has ended, and return its outcome; see the module's invariant."""
        try:
            while self._ended is None and not self._process.supervisor.closed:
                self._serve_once()
        except BaseException:
            # An error of ours, or an interrupt in this thread: end the tree before the caller sees it.
            self._end_without_supervisor()
            raise
        cause = None if self._ended is not None else self._end_without_supervisor()
        # All writers are dead: read the rest of what they sent.
        if not self._process.control.closed:
            self._read_child(answer=False)
        if not self._process.output.closed:
            self._process.output.pull()
        return self._outcome(cause)

    def _serve_once(self) -> None:
        process = self._process
        sources = [source for source in (process.supervisor, process.control, process.output) if not source.closed]
        wait(sources, POLL_SECONDS, [process.control] if process.control.unsent else [])
        # Read all of them, ready or not: a wait during which this process was stopped reports none as ready, and the
        # step that is checked below may have ended meanwhile.
        if not process.output.closed:
            process.output.pull()
        if process.control.unsent:
            process.control.flush()
        if not process.control.closed:
            self._read_child(answer=True)
        for message in process.supervisor.pull():
            if "ended" in message:
                self._ended = message["ended"]
        if self._ended is None and not process.supervisor.closed:
            self._end_if_due()

    def _read_child(self, *, answer: bool) -> None:
        try:
            messages = self._process.control.pull()
            for message in messages:
                if "result" in message:
                    self._result = from_wire(message["result"], self._call.memory_limit_bytes)
                elif "note" in message:
                    self._take_note(message["note"])
                elif answer:
                    self._process.control.post(self._reply(message["ask"]))
        except (FrameError, KeyError, ValueError, TypeError) as error:
            self._result = None
            self._end(Failed("internal", f"the step's process sent something unreadable: {error}", "", permanent=True))
            self._process.control.close()

    def _take_note(self, note: dict[str, Any]) -> None:
        """Take a one-way message. If it is refused, the step's next call is refused for the same reason."""
        try:
            self._note(note["name"], note["payload"])
        except Exception as error:
            logger.debug("step %s: its message %s was not taken: %s", self._call.key, note["name"], error)

    def _reply(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The answer to one call of the child. An exception of `serve` becomes a refusal with its code."""
        name = ask["name"]
        if name == "cancelled":
            return {"answer": self._cancelled.is_set()}
        if self._cancelled.is_set():
            return {"refusal": {"code": "cancelled", "message": f"{name}: the job was cancelled", "permanent": True}}
        try:
            answer = self._serve(name, ask["payload"])
            plain_json(answer)
        except Exception as error:
            code = getattr(error, "code", None)
            if not isinstance(code, str):
                logger.exception("step %s: answering %s failed", self._call.key, name)
                code = "internal"
            permanent = getattr(error, "permanent", False) is True
            return {"refusal": {"code": code, "message": str(error)[:2000], "permanent": permanent}}
        return {"answer": answer}

    def _end_if_due(self) -> None:
        """Ask the supervisor to end the tree if there is a reason; end it here if the supervisor does not act."""
        moment = now()
        if self._cancelled.is_set():
            if self._cancel_ends_at is None:
                self._cancel_ends_at = moment + self._cancel_grace_seconds
            if moment >= self._cancel_ends_at:
                self._end(Cancelled())
        if self._stopping.is_set():
            self._end(Cancelled("the worker is stopping"))
        if self._guard.lost:
            self._end(Lost("the worker has lost its guard, so its steps were ended"))
        if moment >= self._overdue_at:
            logger.error("step %s: neither supervisor nor guard has ended it; the worker does", self._call.key)
            assert self._process.supervisor_identity is not None
            end_tree(self._process.supervisor_identity)
            self._overdue_at = moment + 1.0

    def _end(self, verdict: Outcome) -> None:
        if self._verdict is None:
            self._verdict = verdict
            self._process.supervisor.post({"end": {}})
            # The supervisor acts at once, or not at all if it was stopped: then this thread ends the tree itself.
            self._overdue_at = min(self._overdue_at, now() + OWN_SLACK_SECONDS)

    def _end_without_supervisor(self) -> Outcome:
        """The supervisor has gone without a report: end the tree, prove that it is gone, and say why it ended."""
        identity = self._process.supervisor_identity
        assert identity is not None
        attempts = 0
        while True:
            report = self._guard.end(self._call.key, PROOF_SECONDS)
            proved = report is not None or end_tree(identity).proved
            # Orphans of a killed supervisor go to the zygote, or to init if that is dead: their tag identifies them.
            if end_tagged(tag_of(identity)).proved and proved:
                break
            attempts += 1
            logger.error(
                "step %s: its processes cannot be proved gone (check %d); its lease stays", self._call.key, attempts
            )
        remove_directory(self._tmpdir)
        reason = report.reason if report is not None else None
        if reason == "silent":
            return self._lost_to_silence()
        if reason == "limit" or (self._verdict is None and now() >= self._overdue_at - OWN_SLACK_SECONDS):
            return self._timed_out()
        return Crashed("its supervisor process was killed from outside", "")

    def _outcome(self, cause: Outcome | None) -> Outcome:
        tail = self._process.output.text()
        if tail:
            logger.info("step %s wrote: %s", self._call.key, tail)
        if isinstance(self._result, Completed):
            return self._result
        if self._cancelled.is_set():
            return Cancelled()
        if self._result is not None:
            return self._result
        if self._verdict is not None:
            return self._verdict
        if isinstance(cause, Crashed):
            return Crashed(cause.status, tail)
        if cause is not None:
            return cause
        assert self._ended is not None
        match self._ended["cause"]:
            case "limit":
                return self._timed_out()
            case "silent":
                return self._lost_to_silence()
            case "memory":
                limit = self._call.memory_limit_bytes
                return OutOfMemory(limit, f"the step's processes held more than {limit} bytes of memory together")
            case _:
                return Crashed(describe_status(self._ended["status"]), tail)

    def _lost_to_silence(self) -> Lost:
        return Lost(f"the step was ended: its worker was silent for {self._guard.silence_seconds:g} s")

    def _timed_out(self) -> TimedOut:
        limit = self._call.time_limit
        return TimedOut(limit, f"the step was ended at its time limit of {limit:g} s")


def describe_status(status: int | None) -> str:
    """A wait status in words, with the usual sender of a signal."""
    if status is None:
        return "its exit status is not known"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        hint = {
            "SIGKILL": " (from outside: an operator, or the kernel when memory ran out)",
            "SIGSEGV": " (a fault in C code, or its stack overflowed)",
        }.get(name, "")
        return f"killed by {name}{hint}"
    return f"exit status {os.WEXITSTATUS(status)}"
