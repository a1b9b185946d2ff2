"""Schedules and their fires.

The models check the shape; `orchestrator.control.schedule_times` checks the cadence, so that each of its faults is an
`invalid_schedule`. The schema shows the bounds nevertheless.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from ....control.schedule_times import (
    LONGEST_EVERY_SECONDS,
    LONGEST_GAP_SECONDS,
    LONGEST_JITTER_SECONDS,
    MAX_CRON_CHARACTERS,
    MOST_PER_DAY,
    MOST_TIMES,
    SHORTEST_EVERY_SECONDS,
)
from ...http.models import WHOLE, AccountName, Answer, Body, Id, JsonObject, Label, Paging, Time
from .jobs import MAX_TAGS, CallbackUrl, Priority

Overlap = Literal["queue", "skip", "replace"]
CatchUp = Literal["none", "one", "all"]
MAX_INPUTS = 1000

_CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$"

Number = Annotated[float, Field(allow_inf_nan=False)]
Cron = Annotated[str, Field(json_schema_extra={"minLength": 9, "maxLength": MAX_CRON_CHARACTERS})]
Every = Annotated[
    Number, Field(json_schema_extra={"minimum": SHORTEST_EVERY_SECONDS, "maximum": LONGEST_EVERY_SECONDS})
]
Jitter = Annotated[Number, Field(json_schema_extra={"minimum": 0, "maximum": LONGEST_JITTER_SECONDS})]
Times = Annotated[list[Time], Field(max_length=MOST_TIMES, json_schema_extra={"minItems": 1})]
Inputs = Annotated[list[JsonObject], Field(max_length=MAX_INPUTS, json_schema_extra={"minItems": 1})]
Zone = Annotated[str, Field(max_length=100)]
Pipeline = Annotated[str, Field(min_length=1, max_length=100)]
#: One tag fewer than a job may have: the schedule adds one.
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
#: In the schema: exactly one of the four.
_ONE_CADENCE: list[Any] = [
    {"required": [name], "properties": {name: {"type": kind}}}
    for name, kind in (("cron", "string"), ("every", "number"), ("at", "array"), ("spread", "object"))
]


class SpreadRequest(Body):
    """Fires at random times of each day."""

    per_day: Annotated[int, WHOLE, Field(json_schema_extra={"minimum": 1, "maximum": MOST_PER_DAY})]
    """Fires per day."""
    window: Annotated[list[Clock], Field(min_length=2, max_length=2)]
    """Start and end on the wall clock, such as `["09:00", "21:00"]`; it spans midnight if the end is earlier."""
    min_gap: Annotated[Number, Field(json_schema_extra={"minimum": 0, "maximum": LONGEST_GAP_SECONDS})] = 0.0
    """Least seconds between two fires."""


class _Cadence(Body):
    """The fields that a schedule and its preview share."""

    input: JsonObject = Field(default_factory=dict)
    """The pipeline's input, the same at each fire."""
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
    """Most seconds of a random delay of each fire."""
    approval: bool = False
    """Each job stops before its last step until a person approves."""
    callback_url: CallbackUrl | None = None
    """Called when a job of the schedule ends, like a job's own `callback_url`."""
    priority: Priority = 5
    """Of its jobs; 0 is first."""
    tags: Tags = Field(default_factory=list)
    """Its jobs get these and `schedule:<id>`."""
    overlap: Overlap = "queue"
    """If the previous job has not ended: `queue` creates the new one anyway, `skip` creates none, `replace` cancels
    the previous one."""
    catch_up: CatchUp = "one"
    """Fires that were missed by more than a minute: `none` is made up for, `one` for all of them, or `all`."""
    starts_at: Time | None = None
    """No fire is earlier; the default is now."""
    ends_at: Time | None = None
    """No fire is later."""
    enabled: bool = True


class ScheduleRequest(_Cadence):
    """A new schedule."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE], "oneOf": _ONE_CADENCE})

    name: Label
    """A name. Jitter and spread are derived from account and name."""
    pipeline: Pipeline


class SchedulePreview(_Cadence):
    """A schedule that need not exist, and how many of its times to compute."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE, "count": 5}], "oneOf": _ONE_CADENCE})

    name: Label | None = None
    pipeline: Pipeline | None = None
    account: AccountName | None = None
    """The account of the schedule; not needed with an account's key."""
    count: Annotated[int, WHOLE, Field(ge=1, le=100)] = 10


class ScheduleChange(Body):
    """The changes; omitted fields stay. Another kind of cadence replaces the present one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}], "minProperties": 1})

    name: Label = Field(default_factory=str)
    pipeline: Pipeline = Field(default_factory=str)
    input: JsonObject = Field(default_factory=dict)
    cron: Cron | None = None
    every: Every | None = None
    at: Times | None = None
    spread: SpreadRequest | None = None
    inputs: Inputs | None = None
    """A new list starts with its first input; null means `input` again."""
    timezone: Zone = Field(default_factory=str)
    jitter: Jitter = Field(default_factory=float)
    approval: bool = Field(default_factory=bool)
    """For jobs created from now on, like the next three fields."""
    callback_url: CallbackUrl | None = None
    priority: Priority = Field(default_factory=int)
    tags: Tags = Field(default_factory=list)
    overlap: Overlap = Field(default_factory=lambda: "queue")
    catch_up: CatchUp = Field(default_factory=lambda: "one")
    starts_at: Time | None = None
    """Null means now."""
    ends_at: Time | None = None
    enabled: bool = Field(default_factory=bool)
    """When it is turned on again, it continues with its next time; earlier ones do not count as missed."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one field to change")
        return self


class SpreadView(Answer):
    """Fires at random times of each day."""

    per_day: int
    window: list[str]
    min_gap: float


class ScheduleSummary(Answer):
    """A schedule in a list."""

    id: Id
    account: AccountName
    name: str
    pipeline: str
    cron: str | None
    every: float | None
    at: list[Time] | None
    spread: SpreadView | None
    inputs_left: int | None = Field(description="How many of `inputs` are left; null without `inputs`.")
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
    next_fire_at: Time | None = Field(description="Null if it is off or has no more fires.")
    last_fire_at: Time | None = Field(description="When it last created a job.")
    created_at: Time
    updated_at: Time


class ScheduleView(ScheduleSummary):
    """A schedule."""

    input: JsonObject
    inputs: list[JsonObject] | None


class FireError(Answer):
    """Why a fire's job was refused."""

    code: str
    message: str


class FireView(Answer):
    """The result of one fire of a schedule."""

    fire_at: Time
    outcome: Literal["fired", "skipped", "missed", "refused"]
    job_id: Id | None
    error: FireError | None
    created_at: Time


class SchedulesQuery(Paging):
    """Filters of the list of schedules."""

    account: AccountName | None = None
