"""What one job may do, in plain Python: job, steps, draft, ledger and approval, and what each call does to them.

Nothing here is taken from the store. Each call changes the model and gives back what the store must answer: a word, or
the class of the error that it must raise (then nothing has changed).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tenants.errors import (
    DraftChanged,
    DraftNotPending,
    JobFinished,
    JobNotRetryable,
    NotAwaitingApproval,
    NotFound,
    PublicationNotUnknown,
    StaleVersion,
)

WAITING = ("queued", "retrying")
UNFINISHED = ("queued", "running", "awaiting_approval")
LOST_BUDGET = 5

Answer = str | type[Exception]


@dataclass
class Draft:
    text: str
    #: Counts the texts that it has had.
    edition: int = 1
    version: int = 1
    status: str = "pending_publish"

    def move(self, status: str) -> None:
        self.status, self.version = status, self.version + 1


@dataclass
class Step:
    name: str
    required: bool = True
    status: str = "pending"
    lost: int = 0


@dataclass
class JobModel:
    steps: list[Step]
    approval: bool
    status: str = "queued"
    draft: Draft | None = None
    ledger: str | None = None
    #: The edition that was approved, 0 where there was no draft.
    approved: int | None = None
    cancel_wanted: bool = False
    letter: bool = False
    has_started: bool = False
    #: Of the attempt that runs: the draft's version as it has loaded it.
    loaded: int | None = None
    account: str = "active"
    queue_paused: bool = False
    #: Every edition that somebody approved and nobody rejected since.
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._queue(self.steps[0])

    # --- what there is ---------------------------------------------------------------------------------------------

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def running(self) -> Step | None:
        return next((step for step in self.steps if step.status == "running"), None)

    @property
    def waiting(self) -> Step | None:
        return next((step for step in self.steps if step.status in WAITING), None)

    @property
    def finished(self) -> bool:
        return self.status not in UNFINISHED

    def approval_is_missing(self) -> bool:
        edition = 0 if self.draft is None else self.draft.edition
        discarded = self.draft is not None and self.draft.status == "discarded"
        return self.approval and (discarded or self.approved != edition)

    # --- what calls do to it ---------------------------------------------------------------------------------------

    def _queue(self, step: Step) -> None:
        held = self.approval and step is self.last
        step.status = self.status = "awaiting_approval" if held else "queued"

    def _end(self, status: str) -> None:
        self.status, self.loaded = status, None
        if status in ("cancelled", "expired", "timed_out"):
            for step in self.steps:
                if step.status in (*WAITING, "pending", "awaiting_approval"):
                    step.status = "cancelled"
        if status != "expired" and self.ledger == "started":
            self.ledger = "unknown"
            assert self.draft is not None
            self.draft.move("needs_review")

    def _wait(self, step: Step, status: str) -> Answer:
        step.status, self.status, self.loaded = status, "queued", None
        if self.cancel_wanted:
            self._end("cancelled")
            return "ended"
        if step is self.last and self.approval_is_missing():
            step.status = self.status = "awaiting_approval"
            return "ended"
        return "waits"

    def _move_on(self, step: Step, status: str) -> None:
        step.status, self.loaded = status, None
        if step is self.last:
            self.status = "completed"
        elif self.cancel_wanted:
            self._end("cancelled")
        else:
            self._queue(self.steps[self.steps.index(step) + 1])

    def _fail(self, step: Step, outcome: str = "failed") -> None:
        # Of a publish that was started more is to be said than that the time was over.
        status = "timed_out" if outcome == "timed_out" and self.ledger != "started" else "failed"
        if not step.required:
            self._move_on(step, status)
            return
        step.status, self.letter = status, True
        self._end(status)

    # --- workers ---------------------------------------------------------------------------------------------------

    def start(self, number: int) -> Answer:
        step = self.steps[number]
        if step.status == "running":
            return "refused"
        if step.status not in WAITING:
            return "gone"
        if step is self.last and self.approval_is_missing():
            step.status = self.status = "awaiting_approval"
            return "gone"
        if self.account in ("paused", "suspended") or (self.queue_paused and step is self.last):
            return "refused"
        step.status = self.status = "running"
        self.has_started = True
        return "owned"

    def complete(self) -> None:
        assert self.running is not None
        self._move_on(self.running, "completed")

    def wait(self, outcome: str) -> Answer:
        assert self.running is not None
        return self._wait(self.running, "retrying" if outcome in ("failed", "timed_out") else "queued")

    def fail(self, outcome: str) -> None:
        assert self.running is not None
        self._fail(self.running, outcome)

    def lose(self, *, handed_back: bool) -> None:
        step = self.running
        assert step is not None
        if self.cancel_wanted:
            self.end_running("cancelled")
        elif not handed_back and step.lost == LOST_BUDGET:
            self._fail(step)
        else:
            step.lost += 0 if handed_back else 1
            self._wait(step, "retrying")

    def end_running(self, status: str) -> None:
        step = self.running
        assert step is not None
        step.status = status
        self._end(status)

    def bury(self, number: int) -> None:
        if self.steps[number].status in WAITING:
            self._fail(self.steps[number])

    # --- the attempt's own calls -------------------------------------------------------------------------------------

    def create_draft(self, text: str) -> Answer:
        if self.draft is None:
            self.draft = Draft(text)
            return "done"
        if self.draft.status != "pending_publish":
            return NotFound
        self.draft.edition += text != self.draft.text
        self.draft.text, self.draft.version = text, self.draft.version + 1
        return "done"

    def load_draft(self) -> Answer:
        if self.draft is None:
            return "none"
        if self.running is self.last and self.approval_is_missing():
            return DraftChanged
        self.loaded = self.draft.version
        return "loaded"

    def open_entry(self) -> Answer:
        if self.draft is None:
            return NotFound
        self.ledger = self.ledger or "intent"
        return "done"

    def publish_starts(self) -> Answer:
        if self.ledger != "intent":
            return NotFound
        assert self.draft is not None
        publishable = self.draft.status in ("pending_publish", "publishing", "needs_review")
        if not publishable or self.draft.version != self.loaded or self.approval_is_missing():
            return DraftChanged
        self.ledger = "started"
        self.draft.move("publishing")
        return "done"

    def publish_ends(self, ledger: str) -> Answer:
        """`absent`: the target has no such post; `unknown`; `confirmed`."""
        if self.ledger not in ("started", "unknown"):
            return NotFound
        self.ledger = "intent" if ledger == "absent" else ledger
        assert self.draft is not None
        if ledger != "absent":
            self.draft.move("needs_review" if ledger == "unknown" else "published")
        return "done"

    # --- steering ----------------------------------------------------------------------------------------------------

    def cancel(self) -> Answer:
        if self.finished:
            return JobFinished
        self.cancel_wanted = True
        if self.running is not None:
            return "asked"
        self._end("cancelled")
        return "ended"

    def approve(self, version: int | None) -> Answer:
        if self.status != "awaiting_approval":
            return NotAwaitingApproval
        if version is not None and (self.draft is None or self.draft.version != version):
            return StaleVersion
        self.approved = 0 if self.draft is None else self.draft.edition
        self.seen.add(self.approved)
        self.last.status = self.status = "queued"
        self.last.lost = 0
        return "done"

    def reject(self) -> Answer:
        if self.status != "awaiting_approval":
            return NotAwaitingApproval
        self._end("cancelled")
        self.approved = None
        self.seen.clear()
        if self.draft is not None and self.draft.status == "pending_publish":
            self.draft.move("discarded")
        return "done"

    def retry(self) -> Answer:
        if self.status not in ("failed", "timed_out", "cancelled", "expired"):
            return JobNotRetryable
        if self.draft is not None and self.draft.status == "discarded":
            self.draft.move("pending_publish")
        done = [s.status == "completed" or (not s.required and s.status in ("failed", "timed_out")) for s in self.steps]
        first = self.steps[done.index(False)]
        for step in self.steps[self.steps.index(first) :]:
            step.status, step.lost = "pending", 0
        self.cancel_wanted = self.letter = False
        first.status = self.status = "queued"
        if first is self.last and self.approval_is_missing():
            first.status = self.status = "awaiting_approval"
        return "done"

    def replay(self) -> Answer:
        return self.retry() if self.letter else JobNotRetryable

    def discard_letter(self) -> Answer:
        if not self.letter:
            return NotFound
        self.letter = False
        return "done"

    def settle(self, *, is_there: bool) -> Answer:
        if self.ledger != "unknown":
            return PublicationNotUnknown
        if self.status not in ("failed", "timed_out", "cancelled"):
            return JobNotRetryable
        self.ledger = "confirmed" if is_there else "intent"
        assert self.draft is not None
        self.draft.move("published" if is_there else "pending_publish")
        return self.retry()

    def edit(self, text: str, version: int | None) -> Answer:
        assert self.draft is not None
        if self.draft.status != "pending_publish":
            return DraftNotPending
        if version is not None and version != self.draft.version:
            return StaleVersion
        self.draft.text = text
        self.draft.edition += 1
        self.draft.version += 1
        if self.last.status in WAITING and self.approval_is_missing():
            self.last.status = self.status = "awaiting_approval"
        return "done"

    def empty_queue(self, lane: str) -> None:
        if self.waiting is not None and self.waiting.name == lane:
            self.cancel_wanted = True
            self._end("cancelled")

    def deadline(self) -> None:
        if not self.finished and self.running is None:
            self._end("timed_out")

    def expire(self) -> None:
        if not self.finished and not self.has_started:
            self._end("expired")
