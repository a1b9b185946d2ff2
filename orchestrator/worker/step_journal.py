"""Log lines and progress of running steps, written to SQL in batches.

A step does not wait for a commit per line. The lines of an attempt gather in its `StepJournal`. They are written by a
thread a quarter of a second after the first, or when a batch is full; before the step's next call; and at the
attempt's end.

Invariants
- An attempt's pending lines are bounded; further lines are dropped, and one line says how many.
- Lines of an attempt are written in order.
- A journal that cannot be written (no database, the step was removed) does not fail the step.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from tenants.database.transactions import CommitUnknown, Database
from tenants.errors import OwnershipLost, Unavailable
from tenants.store import attempt
from tenants.store.attempt import OwnedAttempt
from tenants.store.events import NewEvent, record

log = logging.getLogger(__name__)

#: The longest time that a line waits while its step makes no call.
FLUSH_SECONDS = 0.25
#: Lines per transaction; a full batch is written without waiting.
BATCH_LINES = 500
#: Bounds of an attempt's pending lines.
MAX_PENDING_LINES = 5_000
MAX_PENDING_CHARACTERS = 2 << 20


class StepJournal:
    """The pending lines and progress of one attempt. Any thread may call any method.

    `on_pending` is called when the journal gets its first pending entry, and again when a batch is full.
    """

    def __init__(
        self, owned: OwnedAttempt, database: Database, on_pending: Callable[[StepJournal, bool], None] | None = None
    ) -> None:
        self._owned = owned
        self._database = database
        self._on_pending = on_pending
        self._state = threading.Lock()
        #: Held while a batch is written, so that batches stay in order.
        self._writing = threading.Lock()
        self._lines: deque[tuple[str, str]] = deque()
        self._characters = 0
        self._left_out = 0
        self._progress: tuple[int, str] | None = None
        self._closed = False
        #: Another attempt owns the step now, or it was removed; found when a batch was written.
        self.ownership_lost = False

    def add_line(self, level: str, message: str) -> None:
        """Add a line to the next batch."""
        with self._state:
            first = self._is_empty
            if len(self._lines) >= MAX_PENDING_LINES or self._characters + len(message) > MAX_PENDING_CHARACTERS:
                self._left_out += 1
                return
            self._lines.append((level, message))
            self._characters += len(message)
            full = len(self._lines) == BATCH_LINES
        if first or full:
            self._notify(full)

    def leave_out(self, count: int) -> None:
        """Count lines that the step's process dropped."""
        with self._state:
            first = self._is_empty
            self._left_out += count
        if first:
            self._notify(False)

    def set_progress(self, percent: int, note: str) -> None:
        """Set the progress of the next batch."""
        with self._state:
            first = self._is_empty
            self._progress = (percent, note)
        if first:
            self._notify(False)

    def flush(self) -> None:
        """Write what is pending. Where that fails for now, it stays pending."""
        with self._writing:
            while batch := self._take():
                try:
                    self._database.write(batch.write)
                except CommitUnknown as error:
                    log.warning("whether %d log lines of %s are kept is not known: %s", len(batch.lines), self, error)
                except Unavailable as error:
                    log.debug("log lines of %s are not kept yet: %s", self, error)
                    self._put_back(batch)
                    return
                except OwnershipLost:
                    self.ownership_lost = True
                except Exception:
                    log.exception("%d log lines of %s cannot be kept", len(batch.lines), self)
                else:
                    self.ownership_lost = self.ownership_lost or batch.ownership_lost

    def close(self) -> None:
        """Write what is pending for the last time."""
        self.flush()
        with self._state:
            self._closed = True
            lost = len(self._lines) + self._left_out
        if lost:
            log.warning("%d log lines of %s are not kept: the database cannot be reached", lost, self)

    def __str__(self) -> str:
        return f"step {self._owned.pipeline}.{self._owned.name} of job {self._owned.job_id}"

    @property
    def _is_empty(self) -> bool:
        return not self._lines and not self._left_out and self._progress is None

    def _notify(self, full: bool) -> None:
        if self._on_pending is not None:
            self._on_pending(self, full)

    def _take(self) -> _Batch | None:
        with self._state:
            if self._is_empty:
                return None
            lines = [self._lines.popleft() for _ in range(min(BATCH_LINES, len(self._lines)))]
            self._characters -= sum(len(message) for _, message in lines)
            left_out, progress = 0, None
            if not self._lines:  # the last batch: the dropped lines came after these
                left_out, self._left_out = self._left_out, 0
                progress, self._progress = self._progress, None
        return _Batch(self._owned, lines, left_out, progress)

    def _put_back(self, batch: _Batch) -> None:
        with self._state:
            self._lines.extendleft(reversed(batch.lines))
            self._characters += sum(len(message) for _, message in batch.lines)
            self._left_out += batch.left_out
            self._progress = self._progress or batch.progress
            closed = self._closed
        if not closed:
            self._notify(False)


class _Batch:
    """The lines and progress of one transaction."""

    def __init__(
        self, owned: OwnedAttempt, lines: list[tuple[str, str]], left_out: int, progress: tuple[int, str] | None
    ) -> None:
        self.owned = owned
        self.lines = lines
        self.left_out = left_out
        self.progress = progress
        self.ownership_lost = False

    def write(self, connection: Connection) -> None:
        """Write the batch: lines even if another attempt owns the step now, progress only from the owner.

        Raises:
            OwnershipLost: the step was removed.
        """
        owned = self.owned
        lines = list(self.lines)
        if self.left_out:
            lines.append(("warning", f"{self.left_out} log lines were left out: the step wrote faster than is kept"))
        if lines:
            attempt.still_there(connection, owned)
            record(connection, *(self._event(level, message) for level, message in lines))
        if self.progress is not None:
            try:
                attempt.progress(connection, owned, *self.progress)
            except OwnershipLost:
                self.ownership_lost = True

    def _event(self, level: str, message: str) -> NewEvent:
        data: dict[str, Any] = {"step": self.owned.name, "level": level, "message": message}
        return NewEvent(self.owned.account, self.owned.job_id, "log", data)


class JournalWriter:
    """Writes the journals of a worker process in a thread, which starts with the first pending line."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._pending: dict[StepJournal, None] = {}
        self._full = False
        self._thread: threading.Thread | None = None

    def add(self, journal: StepJournal, full: bool) -> None:
        """Write the journal within `FLUSH_SECONDS`, or at once if a batch is full."""
        with self._state:
            self._pending[journal] = None
            self._full = self._full or full
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_for_all, name="step-journals", daemon=True)
                self._thread.start()
            self._state.notify()

    def _write_for_all(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._pending)
                self._state.wait_for(lambda: self._full, FLUSH_SECONDS)
                journals, self._pending, self._full = list(self._pending), {}, False
            for journal in journals:
                journal.flush()
