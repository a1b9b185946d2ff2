"""Creates the jobs of due schedules ("fires" them).

Any number of control planes may do so at once: the transaction that creates the job also locks the schedule, records
its time under a unique constraint, and advances the schedule only from the time that was read. A job that is refused
(limits, a draining account, an input that no longer fits) is recorded, and the schedule advances to its next time. A
paused lane or account refuses nothing: the jobs wait.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from tenants.errors import InvalidInput, JobFinished, OnelaneError
from tenants.store.dispatch import Dispatch
from tenants.store.jobs import schedules as store

from .. import metrics
from ..control.schedule_times import next_fire
from ..control.schedules import cadence_of, new_job
from ..runtime import Runtime

log = logging.getLogger(__name__)

#: A fire that is later than this was missed: `catch_up` decides about it.
GRACE_SECONDS = 60.0


@dataclass(slots=True)
class _Done:
    """The results of one transaction, for use after its commit."""

    schedules: int = 0
    more: bool = False
    queued: list[Dispatch] = field(default_factory=list)
    withdrawn: list[Dispatch] = field(default_factory=list)
    #: By schedule: the time, its outcome, and the error that refused the job.
    outcomes: list[tuple[Mapping[Any, Any], datetime, str, Mapping[str, Any] | None]] = field(default_factory=list)


class _Overtaken(Exception):
    """Another control plane or a change of the schedule was faster: roll this fire back."""


class _Recorded(Exception):
    """This time has a record already: roll this fire back, and advance the schedule."""


class ScheduleLoop:
    """See the module's docstring."""

    name = "schedules"
    #: The longest interval; a shorter one ends with the next fire.
    longest_interval_seconds = 1.0
    batch = 50

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.interval_seconds = self.longest_interval_seconds

    def run_once(self) -> bool:
        """Fire up to a batch of due schedules, each once; True when more are due."""
        now, earliest = self._runtime.database.read(store.earliest)
        if earliest is None or earliest > now:
            left = self.longest_interval_seconds if earliest is None else (earliest - now).total_seconds()
            self.interval_seconds = min(self.longest_interval_seconds, left)
            return False
        self.interval_seconds = self.longest_interval_seconds
        done = self._runtime.database.write(self._fire_due)
        self._runtime.dispatcher.withdraw(done.withdrawn)
        self._runtime.dispatcher.send(done.queued)
        for row, time, outcome, error in done.outcomes:
            metrics.SCHEDULE_FIRES.labels(outcome).inc()
            if error is not None:
                log.warning(
                    "schedule %s of account %r: its time %s was %s: %s", row["id"], row["account"], time, outcome, error
                )
        return done.more or done.schedules == self.batch

    def _fire_due(self, connection: Connection) -> _Done:
        now = store.now(connection)
        rows = store.take_due(connection, now, limit=self.batch)
        done = _Done(schedules=len(rows))
        # In the order of accounts, so that two control planes do not deadlock on locks of accounts.
        for row in sorted(rows, key=lambda row: (row["account"], row["next_fire_at"], row["id"])):
            part = _Done()
            firing = _Firing(self._runtime, connection, row, now, part)
            try:
                with connection.begin_nested():
                    firing.run()
            except _Overtaken:
                continue
            except _Recorded:
                firing.skip()
                continue
            except Exception as fault:
                if isinstance(fault, DBAPIError):
                    raise
                # One faulty schedule must not stop all others.
                log.exception("schedule %s of account %r failed, and is disabled", row["id"], row["account"])
                store.stop(connection, row, {"code": "internal", "message": f"{type(fault).__name__}: see the log"})
                continue
            done.more = done.more or part.more
            done.queued += part.queued
            done.withdrawn += part.withdrawn
            done.outcomes += part.outcomes
        return done


class _Firing:
    """One due time of one schedule, in a savepoint."""

    def __init__(
        self, runtime: Runtime, connection: Connection, row: Mapping[Any, Any], now: datetime, done: _Done
    ) -> None:
        self._jobs = runtime.jobs
        self._connection = connection
        self._row = row
        self._now = now
        self._done = done
        self._due: datetime = row["next_fire_at"]

    def run(self) -> None:
        row, due = self._row, self._due
        job_id, outcome, error = self._decide()
        took_input = row["inputs_total"] is not None and (
            # An input that is always refused must not block those after it.
            job_id is not None or (error is not None and error["code"] in _PERMANENT)
        )
        if not store.record_fire(self._connection, row, due, outcome, job_id=job_id, error=error):
            raise _Recorded
        following = self._following(took_input=took_input)
        fired_at = due if job_id is not None else None
        if not store.advance(self._connection, row, following, fired_at=fired_at, took_input=took_input):
            raise _Overtaken
        self._done.more = following is not None and following <= self._now
        self._done.outcomes.append((row, due, outcome, error))

    def skip(self) -> None:
        """Advance from a recorded time: after the restore of a backup, or where the database's clock was set back."""
        store.advance(self._connection, self._row, self._following(took_input=False), fired_at=None, took_input=False)

    def _decide(self) -> tuple[str | None, str, dict[str, Any] | None]:
        """The job's id if one was created, the outcome, and the error that refused the job."""
        if self._late and self._row["catch_up"] == "none":
            return None, "missed", None
        try:
            with self._connection.begin_nested():
                job_id = self._create()
        except OnelaneError as refusal:
            self._done.queued.clear()
            self._done.withdrawn.clear()
            return None, "refused", {"code": refusal.code, "message": str(refusal)}
        except Exception as fault:
            # A pipeline's own validators may raise anything, and a value may fit no column. But an unreachable
            # database or a deadlock ends this transaction, and the next run repeats it.
            if isinstance(fault, DBAPIError) and not isinstance(fault, DataError | IntegrityError):
                raise
            log.exception("schedule %s of account %r: its job cannot be created", self._row["id"], self._row["account"])
            return None, "refused", {"code": "internal", "message": f"{type(fault).__name__}: see the log"}
        return job_id, "skipped" if job_id is None else "fired", None

    def _create(self) -> str | None:
        """The new job's id; None when an earlier job is unfinished and `overlap` is skip."""
        row, connection = self._row, self._connection
        if row["overlap"] != "queue":
            unfinished = store.unfinished_jobs(connection, row["id"])
            if unfinished and row["overlap"] == "skip":
                return None
            self._cancel(unfinished)
        given = row["input"]
        if row["inputs_total"] is not None:
            given = store.inputs_of(connection, row["id"])[row["inputs_taken"]]
        plan = self._jobs.plan(new_job(row, given))
        self._done.queued += self._jobs.create_within(connection, row["account"], plan)
        return plan.id

    def _cancel(self, unfinished: Sequence[str]) -> None:
        for job_id in unfinished:
            try:
                _, withdrawn = self._jobs.cancel_within(self._connection, job_id, self._row["account"])
            except JobFinished:
                continue
            self._done.withdrawn += withdrawn

    @property
    def _late(self) -> bool:
        return self._due < self._now - timedelta(seconds=GRACE_SECONDS)

    def _following(self, *, took_input: bool) -> datetime | None:
        row = self._row
        total = row["inputs_total"]
        if total is not None and row["inputs_taken"] + took_input >= total:
            return None
        after = self._due
        if row["catch_up"] != "all":
            # At most one fire makes up for all missed ones.
            after = max(after, self._now - timedelta(seconds=GRACE_SECONDS))
        return next_fire(cadence_of(row), after)


#: Refusals that repeat with the same input.
_PERMANENT = frozenset({InvalidInput.code, "unknown_pipeline", "invalid_input", "internal"})
