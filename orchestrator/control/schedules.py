"""Creating, reading, changing, running and previewing schedules. `loops/schedules.py` fires them.

Invariants
- A stored schedule has no faults, and its `next_fire_at` is computed by `schedule_times`.
- A change that does not affect its times does not change `next_fire_at`, so that a due fire is not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping

from tenants.account import parse_account
from tenants.database.models import new_id
from tenants.database.transactions import Database
from tenants.errors import Fault, InvalidInput, InvalidPipelineInput, InvalidSchedule, ScheduleEnded, UnknownPipeline
from tenants.store.jobs import schedules as store
from tenants.store.jobs.create import JobPlan
from tenants.store.listings import Page

from .dispatch import Dispatcher
from .jobs import Jobs
from .schedule_times import KINDS, Cadence, Spread, faults, next_fire, upcoming

#: Fields that determine a schedule's times, besides the name, from which jitter and spread are drawn.
_TIMING = (*KINDS, "timezone", "jitter", "starts_at", "ends_at", "enabled", "inputs")
#: Columns that a caller sets.
FIELDS = ("name", "pipeline", "input", "approval", "callback_url", "priority", "tags", "overlap", "catch_up", *_TIMING)
#: Defaults of a new schedule. One kind of cadence must be given.
DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys((*KINDS, "inputs", "starts_at", "ends_at")),
    "input": {},
    "timezone": "UTC",
    "jitter": 0.0,
    "approval": False,
    "callback_url": None,
    "priority": 5,
    "tags": [],
    "overlap": "queue",
    "catch_up": "one",
    "enabled": True,
}


#: A further write in the same transaction, called with the new row or job.
Within = Callable[[Connection, Mapping[Any, Any]], None]


def _noop(connection: Connection, made: Mapping[Any, Any]) -> None:
    """No further write."""


class Schedules:
    """See the module's docstring."""

    def __init__(self, database: Database, jobs: Jobs, dispatcher: Dispatcher) -> None:
        self._database = database
        self._jobs = jobs
        self._dispatcher = dispatcher

    def create(self, account: str, wanted: Mapping[str, Any], *, within: Within = _noop) -> RowMapping:
        """Create a schedule from `FIELDS`; those with a default may be left out.

        Raises:
            InvalidAccount, InvalidSchedule, UnknownPipeline, InvalidPipelineInput: nothing was created.
        """
        account = parse_account(account)

        def work(connection: Connection) -> RowMapping:
            values = {**DEFAULTS, **wanted}
            now = store.now(connection)
            values["starts_at"] = values["starts_at"] or now.replace(microsecond=0)
            first = self._checked(account, values, now)
            values = {**values, "id": new_id(), "account": account, **_inputs_columns(values)}
            made = store.create(connection, {**_as_columns(values), "next_fire_at": first})
            within(connection, made)
            return made

        return self._database.write(work)

    def change(self, schedule_id: str, owner: str | None, changes: Mapping[str, Any]) -> RowMapping:
        """Set some of `FIELDS`. Another kind of cadence replaces the former one.

        Raises:
            NotFound: no such schedule, or not this account's.
            InvalidSchedule, UnknownPipeline, InvalidPipelineInput: nothing was changed.
        """

        def work(connection: Connection) -> RowMapping:
            row = store.lock(connection, schedule_id, owner)
            now = store.now(connection)
            new = _changed(row, changes, now)
            first = row["next_fire_at"] if new["enabled"] else None
            # Unchanged fields are not checked again: a schedule that no longer fits can still be disabled.
            touched = {name for name in changes if (name, changes[name]) != ("enabled", False)}
            if touched & {"name", "pipeline", "input", "callback_url", "tags", *_TIMING}:
                fresh = self._checked(row["account"], new, now, must_fire=bool(touched & {*_TIMING}))
                if _times_differ(row, new, changes):
                    first = fresh
            values = {name: value for name, value in _as_columns(new).items() if name in FIELDS}
            values["next_fire_at"] = first
            if "inputs" in changes or new["inputs"] != row["inputs"]:
                values |= _inputs_columns(new)
            return store.change(connection, schedule_id, values)

        return self._database.write(work)

    def fetch(self, schedule_id: str, owner: str | None) -> RowMapping:
        """One schedule.

        Raises:
            NotFound: no such schedule, or not this account's.
        """
        return self._database.read(lambda connection: store.fetch(connection, schedule_id, owner))

    def page(self, *, account: str | None, limit: int, cursor: str | None) -> Page:
        """Schedules without `input` and `inputs`, newest first."""
        return self._database.read(
            lambda connection: store.page(connection, account=account, limit=limit, cursor=cursor)
        )

    def fires(self, schedule_id: str, owner: str | None, *, limit: int, cursor: str | None) -> Page:
        """A schedule's fires, newest first.

        Raises:
            NotFound: as `fetch`.
        """

        def read(connection: Connection) -> Page:
            store.fetch(connection, schedule_id, owner)
            return store.fires_page(connection, schedule_id, limit=limit, cursor=cursor)

        return self._database.read(read)

    def remove(self, schedule_id: str, owner: str | None) -> None:
        """Remove a schedule; its jobs stay.

        Raises:
            NotFound: as `fetch`.
        """
        self._database.write(lambda connection: store.remove(connection, schedule_id, owner))

    def run(self, schedule_id: str, owner: str | None, *, within: Within = _noop) -> dict[str, Any]:
        """Create a job now, whatever its times and its overlap, also if it is disabled; uses the next of its inputs.

        Raises:
            NotFound: as `fetch`.
            ScheduleEnded: its inputs are used up.
            UnknownPipeline, InvalidPipelineInput, AccountDraining, AccountSuspended, QueueFull, QuotaExhausted: as
                `Jobs.create`.
        """

        def work(connection: Connection) -> tuple[dict[str, Any], Sequence[Any]]:
            row = store.lock(connection, schedule_id, owner)
            inputs, taken = row["inputs"], row["inputs_taken"]
            if inputs is not None and taken >= len(inputs):
                raise ScheduleEnded(f"schedule {schedule_id} has used all of its {len(inputs)} inputs")
            plan = self._jobs.plan(new_job(row, row["input"] if inputs is None else inputs[taken]))
            queued = self._jobs.create_within(connection, row["account"], plan)
            now = store.now(connection)
            store.record_fire(connection, row, now, "fired", job_id=plan.id)
            values: dict[str, Any] = {"last_fire_at": now}
            if inputs is not None:
                values["inputs_taken"] = taken + 1
                if taken + 1 == len(inputs):
                    values["next_fire_at"] = None
            store.change(connection, schedule_id, values)
            job = self._jobs.view(connection, plan.id, None)
            within(connection, job)
            return job, queued

        job, queued = self._database.write(work)
        self._dispatcher.send(queued)
        return job

    def preview(self, account: str, wanted: Mapping[str, Any], count: int) -> list[datetime]:
        """The next fires of a schedule with these fields, if it were created now.

        Raises:
            InvalidSchedule: it would be refused.
        """
        now = datetime.now(UTC)
        values = {**DEFAULTS, "name": "", **wanted}
        values["starts_at"] = values["starts_at"] or now.replace(microsecond=0)
        self._checked(account, values, now)
        if values["inputs"] is not None:
            count = min(count, len(values["inputs"]))
        return upcoming(cadence(account, values), now, count)

    def _checked(
        self, account: str, values: Mapping[str, Any], now: datetime, *, must_fire: bool = True
    ) -> datetime | None:
        """Check a schedule; returns its first fire after now, None if it is disabled or its inputs are used up."""
        timed = cadence(account, values)
        found, first = faults(timed), None
        inputs = values["inputs"]
        if inputs is not None and not inputs:
            found.append(Fault(("inputs",), "it is empty; leave it out, or give one input for each fire"))
        if inputs and values["input"]:
            found.append(Fault(("inputs",), "give input or inputs, not both"))
        if not found:
            first = next_fire(timed, now)
            if first is None and must_fire and values["enabled"]:
                kind = next(kind for kind in KINDS if values[kind] is not None)
                found.append(Fault((kind,), "it never fires: none of its times lies ahead and within its bounds"))
        unfit, code = self._job_faults(values) if values.get("pipeline") is not None else ([], None)
        if found:
            raise InvalidSchedule(_message(found + unfit), tuple(found + unfit))
        if unfit:
            refusal = UnknownPipeline if code == UnknownPipeline.code else InvalidPipelineInput
            raise refusal(_message(unfit), tuple(unfit))
        used_up = inputs is not None and values.get("inputs_taken", 0) >= len(inputs)
        return first if values["enabled"] and not used_up else None

    def _job_faults(self, values: Mapping[str, Any]) -> tuple[list[Fault], str | None]:
        """Faults that would refuse its jobs, with the locations in the schedule, and the error's code."""
        found: list[Fault] = []
        code: str | None = None
        inputs = values["inputs"]
        for index, given in enumerate(inputs or [values["input"]]):
            try:
                self._jobs.plan(
                    JobPlan(values["pipeline"], given, callback_url=values["callback_url"], tags=tuple(values["tags"]))
                )
            except UnknownPipeline as error:
                return list(error.faults), error.code
            except InvalidInput as error:
                code = error.code
                found += (
                    Fault(("inputs", index, *each.loc[1:]) if inputs else each.loc, each.message)
                    for each in error.faults
                )
        return found, code


def cadence(account: str, values: Mapping[str, Any]) -> Cadence:
    """The cadence of a schedule's fields, `starts_at` among them."""
    spread = values["spread"]
    return Cadence(
        # Not the id, which a schedule has only after its creation: a preview must give the same fires.
        seed=f"{account}\x00{values['name']}",
        starts_at=values["starts_at"],
        cron=values["cron"],
        every=values["every"],
        at=None if values["at"] is None else tuple(map(_time, values["at"])),
        spread=None if spread is None else Spread(spread["per_day"], tuple(spread["window"]), spread["min_gap"]),
        timezone=values["timezone"],
        jitter=values["jitter"],
        ends_at=values["ends_at"],
    )


def cadence_of(row: Mapping[Any, Any]) -> Cadence:
    """The cadence of a row of `schedules`."""
    return cadence(row["account"], row)


def new_job(row: Mapping[Any, Any], given: Mapping[str, Any]) -> JobPlan:
    """The job of one fire; its tag finds all jobs of the schedule."""
    return JobPlan(
        row["pipeline"],
        given,
        approval=row["approval"],
        callback_url=row["callback_url"],
        priority=row["priority"],
        tags=tuple(dict.fromkeys((*row["tags"], f"schedule:{row['id']}"))),
    )


def _changed(row: RowMapping, changes: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    new = {name: row[name] for name in FIELDS}
    new["inputs_taken"] = 0 if "inputs" in changes else row["inputs_taken"]
    if any(changes.get(kind) is not None for kind in KINDS):
        new |= dict.fromkeys(KINDS)
    # A change from one input to a list, or back, names only the new one.
    if changes.get("inputs") is not None and "input" not in changes:
        new["input"] = {}
    if changes.get("input") and "inputs" not in changes:
        new["inputs"] = None
    new |= changes
    new["starts_at"] = new["starts_at"] or now.replace(microsecond=0)
    return new


def _times_differ(row: RowMapping, new: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    if "inputs" in changes or new["inputs"] != row["inputs"] or new["enabled"] != row["enabled"]:
        return True
    before, after = cadence_of(row), cadence(row["account"], new)
    drawn = after.jitter or after.spread is not None
    return after != (before if drawn else replace(before, seed=after.seed))


def _as_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    at = values["at"]
    return {**values, "at": None if at is None else [_time(each).isoformat() for each in at]}


def _inputs_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    inputs = values["inputs"]
    return {"inputs_total": None if inputs is None else len(inputs), "inputs_taken": 0}


def _time(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _message(found: Sequence[Fault]) -> str:
    return "; ".join(f"{'.'.join(map(str, each.loc))}: {each.message}" for each in found[:5])
