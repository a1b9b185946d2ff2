"""Schedules and what became of their times.

The shape is judged here; whether a cadence makes sense is judged by `orchestrator.schedule_times`, so that every fault
of that kind is an `invalid_schedule`. The bounds stand in the schema all the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from ...schedule_times import (
    LONGEST_EVERY_SECONDS,
    LONGEST_GAP_SECONDS,
    LONGEST_JITTER_SECONDS,
    MAX_CRON_CHARACTERS,
    MOST_PER_DAY,
    MOST_TIMES,
    SHORTEST_EVERY_SECONDS,
)
from .base import WHOLE, AccountName, Answer, Body, Id, JsonObject, Label, Paging, Time
from .jobs import MAX_TAGS, CallbackUrl, Priority

Overlap = Literal["queue", "skip", "replace"]
CatchUp = Literal["none", "one", "all"]
MOST_INPUTS = 1000

_CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$"

Number = Annotated[float, Field(allow_inf_nan=False)]
Cron = Annotated[str, Field(json_schema_extra={"minLength": 9, "maxLength": MAX_CRON_CHARACTERS})]
Every = Annotated[
    Number, Field(json_schema_extra={"minimum": SHORTEST_EVERY_SECONDS, "maximum": LONGEST_EVERY_SECONDS})
]
Jitter = Annotated[Number, Field(json_schema_extra={"minimum": 0, "maximum": LONGEST_JITTER_SECONDS})]
Times = Annotated[list[Time], Field(max_length=MOST_TIMES, json_schema_extra={"minItems": 1})]
Inputs = Annotated[list[JsonObject], Field(max_length=MOST_INPUTS, json_schema_extra={"minItems": 1})]
Zone = Annotated[str, Field(max_length=100)]
Pipeline = Annotated[str, Field(min_length=1, max_length=100)]
#: One tag less than a job may have: the schedule adds one.
Tags = Annotated[list[Label], Field(max_length=MAX_TAGS - 1)]
Clock = Annotated[str, WithJsonSchema({"type": "string", "pattern": _CLOCK})]

EXAMPLE: dict[str, Any] = {
    "name": "weekday mornings",
    "pipeline": "blog",
    "input": {"topic": "Keeping bees on a roof", "language": "en"},
    "cron": "0 9 * * 1-5",
    "timezone": "Europe/Berlin",
    "jitter": 600,
    "overlap": "skip",
}
#: One of the four and no other, as a schema says it.
_ONE_CADENCE: list[Any] = [
    {"required": [name], "properties": {name: {"type": kind}}}
    for name, kind in (("cron", "string"), ("every", "number"), ("at", "array"), ("spread", "object"))
]


class SpreadRequest(Body):
    """Fires at drawn times of each day."""

    per_day: Annotated[int, WHOLE, Field(json_schema_extra={"minimum": 1, "maximum": MOST_PER_DAY})]
    """How many a day."""
    window: Annotated[list[Clock], Field(min_length=2, max_length=2)]
    """From when to when on the wall clock, such as `["09:00", "21:00"]`; over midnight if the end is the earlier."""
    min_gap: Annotated[Number, Field(json_schema_extra={"minimum": 0, "maximum": LONGEST_GAP_SECONDS})] = 0.0
    """Seconds between two fires at least."""


class _Cadence(Body):
    """What decides about the times."""

    input: JsonObject = Field(default_factory=dict)
    """What the pipeline takes, the same at each fire."""
    cron: Cron | None = None
    """Five fields: minute, hour, day of the month, month, day of the week. One of `cron`, `every`, `at`, `spread`."""
    every: Every | None = None
    """Seconds from one fire to the next, counted from `starts_at`."""
    at: Times | None = None
    """These times."""
    spread: SpreadRequest | None = None
    inputs: Inputs | None = None
    """Each fire takes the next of these, instead of `input`; the schedule ends with the list."""
    timezone: Zone = "UTC"
    """The IANA name of the zone in which `cron` and `spread` are read."""
    jitter: Jitter = 0.0
    """Seconds by which a fire may come later, drawn for each."""
    approval: bool = False
    """Each job stops before its last step until somebody approves."""
    callback_url: CallbackUrl | None = None
    """Called when a job of the schedule ends, as a job's own."""
    priority: Priority = 5
    """Of its jobs; 0 goes first."""
    tags: Tags = Field(default_factory=list)
    """Its jobs get these and `schedule:<id>`."""
    overlap: Overlap = "queue"
    """When the job before has not ended: `queue` makes the new one all the same, `skip` makes none, `replace` cancels
    the old one."""
    catch_up: CatchUp = "one"
    """What becomes of fires that were missed by more than a minute: `none` of them come, `one` stands for all, or
    `all` come."""
    starts_at: Time | None = None
    """No fire comes before it; now, when it is not given."""
    ends_at: Time | None = None
    """No fire comes after it."""
    enabled: bool = True


class ScheduleRequest(_Cadence):
    """A schedule to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE], "oneOf": _ONE_CADENCE})

    name: Label
    """A name of the caller's. Jitter and spread are drawn from account and name."""
    pipeline: Pipeline


class SchedulePreview(_Cadence):
    """A schedule that need not exist, and how many of its times to compute."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE, "count": 5}], "oneOf": _ONE_CADENCE})

    name: Label | None = None
    pipeline: Pipeline | None = None
    account: AccountName | None = None
    """Whose schedule it would be; an account's key need not say so."""
    count: Annotated[int, WHOLE, Field(ge=1, le=100)] = 10


class ScheduleChange(Body):
    """What to change; what is left out stays. Another kind of cadence takes the place of the one that was."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}], "minProperties": 1})

    name: Label = Field(default_factory=str)
    pipeline: Pipeline = Field(default_factory=str)
    input: JsonObject = Field(default_factory=dict)
    cron: Cron | None = None
    every: Every | None = None
    at: Times | None = None
    spread: SpreadRequest | None = None
    inputs: Inputs | None = None
    """A new list is taken from its beginning; null goes back to `input`."""
    timezone: Zone = Field(default_factory=str)
    jitter: Jitter = Field(default_factory=float)
    approval: bool = Field(default_factory=bool)
    """Of the jobs that are made from now on, as the next three."""
    callback_url: CallbackUrl | None = None
    priority: Priority = Field(default_factory=int)
    tags: Tags = Field(default_factory=list)
    overlap: Overlap = Field(default_factory=lambda: "queue")
    catch_up: CatchUp = Field(default_factory=lambda: "one")
    starts_at: Time | None = None
    """Null is now."""
    ends_at: Time | None = None
    enabled: bool = Field(default_factory=bool)
    """When it is turned on again, it goes on with its next time; what came meanwhile was not missed."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one field to change")
        return self


class SpreadView(Answer):
    """Fires at drawn times of each day."""

    per_day: int
    window: list[str]
    min_gap: float


class ScheduleSummary(Answer):
    """A schedule as lists show it."""

    id: Id
    account: AccountName
    name: str
    pipeline: str
    cron: str | None
    every: float | None
    at: list[Time] | None
    spread: SpreadView | None
    inputs_left: int | None = Field(description="How many of `inputs` are still to come; null where there are none.")
    timezone: str
    jitter: float
    approval: bool
    callback_url: str | None
    priority: int
    tags: list[str]
    overlap: Overlap
    catch_up: CatchUp
    starts_at: Time
    ends_at: Time | None
    enabled: bool
    next_fire_at: Time | None = Field(description="Null when it is off, or nothing more is to come.")
    last_fire_at: Time | None = Field(description="When it last made a job.")
    created_at: Time
    updated_at: Time


class ScheduleView(ScheduleSummary):
    """A schedule."""

    input: JsonObject
    inputs: list[JsonObject] | None


class FireError(Answer):
    """What refused a fire's job."""

    code: str
    message: str


class FireView(Answer):
    """What became of one of a schedule's times."""

    fire_at: Time
    outcome: Literal["fired", "skipped", "missed", "refused"]
    job_id: Id | None
    error: FireError | None
    created_at: Time


class SchedulesQuery(Paging):
    """Which schedules a list holds."""

    account: AccountName | None = None
