"""Makes the jobs of schedules that are due.

Any number of control planes may do so at once: a schedule that one of them looks at is locked for the others, its time
is recorded under a unique constraint, and it moves on only from the time that was seen; all of it in the transaction
that makes the job. What refuses a job (limits, a draining account, an input that no longer fits) is recorded, and the
schedule goes on to its next time. A paused lane or account refuses nothing: the jobs wait.
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
from tenants.store import schedules as store
from tenants.store.dispatch import Dispatch

from .. import metrics
from ..runtime import Runtime
from ..schedule_times import next_fire
from ..schedules import cadence_of, new_job

log = logging.getLogger(__name__)

#: A fire that comes so much too late is on time; later ones were missed, and `catch_up` decides.
GRACE_SECONDS = 60.0


@dataclass(slots=True)
class _Done:
    """What one transaction did, for after its commit."""

    schedules: int = 0
    more: bool = False
    queued: list[Dispatch] = field(default_factory=list)
    withdrawn: list[Dispatch] = field(default_factory=list)
    #: By schedule: the time, what became of it, and what refused it.
    outcomes: list[tuple[Mapping[Any, Any], datetime, str, Mapping[str, Any] | None]] = field(default_factory=list)


class _Overtaken(Exception):
    """Another control plane, or a change by the account, came first; nothing of this fire may stay."""


class _Recorded(Exception):
    """This time has come before; nothing of this fire may stay, but the schedule goes on."""


class ScheduleLoop:
    """See the module's docstring."""

    name = "schedules"
    #: The longest rest; a shorter one ends with the next fire.
    rest_seconds = 1.0
    batch = 50

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.interval_seconds = self.rest_seconds

    def run_once(self) -> bool:
        """Fire up to a batch of schedules, each once; True when more are due."""
        now, earliest = self._runtime.database.read(store.earliest)
        if earliest is None or earliest > now:
            left = self.rest_seconds if earliest is None else (earliest - now).total_seconds()
            self.interval_seconds = min(self.rest_seconds, left)
            return False
        self.interval_seconds = self.rest_seconds
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
        # In the order of accounts, so that two control planes never wait for each other's accounts in a circle.
        for row in sorted(rows, key=lambda row: (row["account"], row["next_fire_at"], row["id"])):
            part = _Done()
            firing = _Firing(self._runtime, connection, row, now, part)
            try:
                with connection.begin_nested():
                    firing.run()
            except _Overtaken:
                continue
            except _Recorded:
                firing.pass_over()
                continue
            except Exception as fault:
                if isinstance(fault, DBAPIError):
                    raise
                # Its times cannot be told any more; one schedule must not stop all others.
                log.exception("schedule %s of account %r cannot go on, and is off", row["id"], row["account"])
                store.stop(connection, row, {"code": "internal", "message": f"{type(fault).__name__}: see the log"})
                continue
            done.more = done.more or part.more
            done.queued += part.queued
            done.withdrawn += part.withdrawn
            done.outcomes += part.outcomes
        return done


class _Firing:
    """One due time of one schedule, within a savepoint."""

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
            # What can never become a job must not stand in the way of the inputs behind it.
            job_id is not None or (error is not None and error["code"] in _PERMANENT)
        )
        if not store.note_fire(self._connection, row, due, outcome, job_id=job_id, error=error):
            raise _Recorded
        following = self._following(took_input=took_input)
        fired_at = due if job_id is not None else None
        if not store.move_on(self._connection, row, following, fired_at=fired_at, took_input=took_input):
            raise _Overtaken
        self._done.more = following is not None and following <= self._now
        self._done.outcomes.append((row, due, outcome, error))

    def pass_over(self) -> None:
        """Go on from a time that is recorded: after a restored backup, or where the database's clock was put back."""
        store.move_on(self._connection, self._row, self._following(took_input=False), fired_at=None, took_input=False)

    def _decide(self) -> tuple[str | None, str, dict[str, Any] | None]:
        """The job's id if one was made, the outcome, and what refused it."""
        if self._late and self._row["catch_up"] == "none":
            return None, "missed", None
        try:
            with self._connection.begin_nested():
                job_id = self._make()
        except OnelaneError as refusal:
            self._done.queued.clear()
            self._done.withdrawn.clear()
            return None, "refused", {"code": refusal.code, "message": str(refusal)}
        except Exception as fault:
            # A pipeline's own validators may raise anything, and a value may fit no column. But a database that is
            # away or in a deadlock ends this transaction, and all of it comes again.
            if isinstance(fault, DBAPIError) and not isinstance(fault, DataError | IntegrityError):
                raise
            log.exception("schedule %s of account %r: its job cannot be made", self._row["id"], self._row["account"])
            return None, "refused", {"code": "internal", "message": f"{type(fault).__name__}: see the log"}
        return job_id, "skipped" if job_id is None else "fired", None

    def _make(self) -> str | None:
        """The new job's id; None when the one before goes on and `overlap` says skip."""
        row, connection = self._row, self._connection
        if row["overlap"] != "queue":
            unfinished = store.unfinished_jobs(connection, row["id"])
            if unfinished and row["overlap"] == "skip":
                return None
            self._replace(unfinished)
        given = row["input"]
        if row["inputs_total"] is not None:
            given = store.inputs_of(connection, row["id"])[row["inputs_taken"]]
        plan = self._jobs.plan(new_job(row, given))
        self._done.queued += self._jobs.create_within(connection, row["account"], plan)
        return plan.id

    def _replace(self, unfinished: Sequence[str]) -> None:
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
            # One fire, or none, stands for all that were missed.
            after = max(after, self._now - timedelta(seconds=GRACE_SECONDS))
        return next_fire(cadence_of(row), after)


#: Refusals that come again with the same input, for ever.
_PERMANENT = frozenset({InvalidInput.code, "unknown_pipeline", "invalid_input", "internal"})
