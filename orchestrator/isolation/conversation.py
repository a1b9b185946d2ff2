"""One attempt as the worker's thread sees it: answer the child, watch for its end, prove that its tree is gone.

Who ends a tree that is over its limit, by the time after it: at once the keeper; after `KEEPER_SLACK_SECONDS` the
guard; after `OWN_SLACK_SECONDS` this thread. Each knows nothing of the others, and all are within the two seconds.

Invariant: `hold` returns only once nothing of the tree is left, and its TMPDIR neither. A result that came whole
counts, also when the limit struck before the child could leave: the work was done.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from orchestrator.guard import Guard
from orchestrator.isolation.cell import Cell
from orchestrator.isolation.frames import FrameError, plain_json, wait
from orchestrator.isolation.keeper import remove_directory
from orchestrator.isolation.mark import end_marked, mark_of
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
from orchestrator.isolation.process_tree import end_tree

logger = logging.getLogger(__name__)

Serve = Callable[[str, dict[str, Any]], Any]
#: Takes what a step sends without waiting for an answer.
Note = Callable[[str, dict[str, Any]], None]

TICK_SECONDS = 0.2
OWN_SLACK_SECONDS = 1.5
PROOF_SECONDS = 3.0


class Conversation:
    def __init__(
        self,
        cell: Cell,
        guard: Guard,
        key: str,
        tmpdir: str,
        *,
        time_limit: float,
        memory_limit_bytes: int | None,
        cancel_grace_seconds: float,
        serve: Serve,
        note: Note,
        cancelled: threading.Event,
        stopping: threading.Event,
    ) -> None:
        self._cell = cell
        self._guard = guard
        self._key = key
        self._tmpdir = tmpdir
        self._time_limit = time_limit
        self._memory_limit_bytes = memory_limit_bytes
        self._cancel_grace_seconds = cancel_grace_seconds
        self._serve = serve
        self._note = note
        self._cancelled = cancelled
        self._stopping = stopping
        self._result: Outcome | None = None
        self._ended: dict[str, Any] | None = None
        self._cancel_ends_at: float | None = None
        #: Set when this thread decided to end the tree: the outcome if no result comes.
        self._verdict: Outcome | None = None
        self._overdue_at = 0.0

    def begin(self, call: dict[str, Any]) -> None:
        """Have the cell start on the call."""
        self._cell.keeper.post(
            {"start": {"limit": self._time_limit, "tmpdir": self._tmpdir, "memory": self._memory_limit_bytes}}
        )
        self._cell.control.post({"call": call})
        self._overdue_at = now() + self._time_limit + OWN_SLACK_SECONDS

    def hold(self) -> Outcome:
        """Stay with the call until it has ended, and return its outcome; see the module's invariant."""
        try:
            while self._ended is None and not self._cell.keeper.closed:
                self._turn()
        except BaseException:
            # A fault of ours, or an interrupt in this thread: the tree must be gone before anybody hears of it.
            self._prove()
            raise
        cause_without_keeper = None if self._ended is not None else self._prove()
        self._hear_last_words()
        return self._outcome(cause_without_keeper)

    def _turn(self) -> None:
        cell = self._cell
        open_ones = [source for source in (cell.keeper, cell.control, cell.output) if not source.closed]
        wait(open_ones, TICK_SECONDS, [cell.control] if cell.control.unsent else [])
        # All are read, whichever are ready: a wait in which this process was stopped says that none is. What is judged
        # afterwards may have ended meanwhile.
        if not cell.output.closed:
            cell.output.pull()
        if cell.control.unsent:
            cell.control.flush()
        if not cell.control.closed:
            self._hear_child(answer=True)
        self._hear_keeper()
        if self._ended is None and not cell.keeper.closed:
            self._judge()

    def _hear_keeper(self) -> None:
        for message in self._cell.keeper.pull():
            if "ended" in message:
                self._ended = message["ended"]

    def _hear_child(self, *, answer: bool) -> None:
        try:
            messages = self._cell.control.pull()
            for message in messages:
                if "result" in message:
                    self._result = from_wire(message["result"], self._memory_limit_bytes)
                elif "note" in message:
                    self._take_note(message["note"])
                elif answer:
                    self._cell.control.post(self._reply(message["ask"]))
        except (FrameError, KeyError, ValueError, TypeError) as error:
            self._result = None
            self._end(Failed("internal", f"the step's process sent something unreadable: {error}", "", permanent=True))
            self._cell.control.close()

    def _take_note(self, note: dict[str, Any]) -> None:
        """Take a message that waits for no answer. Whatever is wrong with it, the step's next call says so."""
        try:
            self._note(note["name"], note["payload"])
        except Exception as error:
            logger.debug("step %s: its message %s was not taken: %s", self._key, note["name"], error)

    def _reply(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Answer one call of the child. An exception of `serve` goes back as a refusal with its code."""
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
                logger.exception("step %s: answering %s failed", self._key, name)
                code = "internal"
            permanent = getattr(error, "permanent", False) is True
            return {"refusal": {"code": code, "message": str(error)[:2000], "permanent": permanent}}
        return {"answer": answer}

    def _judge(self) -> None:
        """Ask the keeper for the end where this side has a reason; take over where the keeper does not act."""
        moment = now()
        if self._cancelled.is_set():
            if self._cancel_ends_at is None:
                self._cancel_ends_at = moment + self._cancel_grace_seconds
            if moment >= self._cancel_ends_at:
                self._end(Cancelled())
        if self._stopping.is_set():
            self._end(Cancelled("the worker is stopping"))
        if self._guard.lost:
            self._end(Lost("the worker has no guard any more, so its steps were ended"))
        if moment >= self._overdue_at:
            logger.error("step %s: neither keeper nor guard has ended it; the worker does", self._key)
            assert self._cell.keeper_identity is not None
            end_tree(self._cell.keeper_identity)
            self._overdue_at = moment + 1.0

    def _end(self, verdict: Outcome) -> None:
        if self._verdict is None:
            self._verdict = verdict
            self._cell.keeper.post({"end": {}})
            # The keeper acts at once or not at all (it was stopped): then this thread ends the tree itself.
            self._overdue_at = min(self._overdue_at, now() + OWN_SLACK_SECONDS)

    def _prove(self) -> Outcome:
        """The keeper is gone without a word: have everybody who may know prove the tree's end, and say why it came."""
        identity = self._cell.keeper_identity
        assert identity is not None
        attempts = 0
        while True:
            report = self._guard.end(self._key, PROOF_SECONDS)
            proved = report is not None or end_tree(identity).proved
            # What a killed keeper leaves goes to the zygote, and past a dead zygote to init: its mark says whose it is.
            if end_marked(mark_of(identity)).proved and proved:
                break
            attempts += 1
            logger.error("step %s: its processes can't be proved gone (look %d); its lease stays", self._key, attempts)
        remove_directory(self._tmpdir)
        reason = report.reason if report is not None else None
        if reason == "silent":
            return self._lost_to_silence()
        if reason == "limit" or (self._verdict is None and now() >= self._overdue_at - OWN_SLACK_SECONDS):
            return self._timed_out()
        return Crashed("its keeper process was killed from outside", "")

    def _hear_last_words(self) -> None:
        """Everybody who could write is dead, so what can be read now is all there is."""
        if not self._cell.control.closed:
            self._hear_child(answer=False)
        if not self._cell.output.closed:
            self._cell.output.pull()

    def _outcome(self, cause_without_keeper: Outcome | None) -> Outcome:
        tail = self._cell.output.text()
        if tail:
            logger.info("step %s wrote: %s", self._key, tail)
        if isinstance(self._result, Completed):
            return self._result
        if self._cancelled.is_set():
            return Cancelled()
        if self._result is not None:
            return self._result
        if self._verdict is not None:
            return self._verdict
        if isinstance(cause_without_keeper, Crashed):
            return Crashed(cause_without_keeper.status, tail)
        if cause_without_keeper is not None:
            return cause_without_keeper
        assert self._ended is not None
        match self._ended["cause"]:
            case "limit":
                return self._timed_out()
            case "silent":
                return self._lost_to_silence()
            case "memory":
                limit = self._memory_limit_bytes
                return OutOfMemory(limit, f"the step's processes held more than {limit} bytes of memory together")
            case _:
                return Crashed(describe_status(self._ended["status"]), tail)

    def _lost_to_silence(self) -> Lost:
        return Lost(f"the step was ended: its worker was silent for {self._guard.silence_seconds:g} s")

    def _timed_out(self) -> TimedOut:
        return TimedOut(self._time_limit, f"the step was ended at its time limit of {self._time_limit:g} s")


def describe_status(status: int | None) -> str:
    """A wait status in words, with what is known about a signal's usual sender."""
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
