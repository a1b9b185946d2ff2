"""Jobs, their steps and attempts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ...http.models import (
    LONGEST_SECONDS,
    WHOLE,
    AccountName,
    Answer,
    Body,
    Id,
    JsonObject,
    Label,
    Paging,
    Query,
    QueryTime,
    Seconds,
    Time,
)

JobStatus = Literal[
    "scheduled",
    "queued",
    "running",
    "awaiting_approval",
    "completed",
    "failed",
    "timed_out",
    "cancelled",
    "expired",
]
StepStatus = Literal[
    "pending",
    "queued",
    "running",
    "retrying",
    "awaiting_approval",
    "completed",
    "skipped",
    "failed",
    "timed_out",
    "cancelled",
]
Priority = Annotated[int, Field(ge=0, le=9), WHOLE]
CallbackUrl = Annotated[str, Field(min_length=1, max_length=2000)]
MAX_TAGS = 50
Outcome = Literal["completed", "failed", "timed_out", "cancelled", "lost", "snoozed", "provider_busy"]

JOB_EXAMPLE: dict[str, Any] = {
    "pipeline": "blog",
    "input": {"topic": "Keeping bees on a roof", "language": "en", "length": "short"},
    "priority": 3,
    "tags": ["spring-campaign"],
    "unique_key": "bees-2026-11",
}
#: In the schema: `run_at` and `delay` exclude each other.
_BOTH_TIMES: dict[str, Any] = {
    "required": ["run_at", "delay"],
    "properties": {"run_at": {"type": "string"}, "delay": {"type": "number"}},
}


class JobRequest(Body):
    """A job to run."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB_EXAMPLE], "not": _BOTH_TIMES})

    pipeline: str = Field(min_length=1, max_length=100)
    """The pipeline's name; `GET /v1/pipelines` lists all."""
    input: JsonObject = Field(default_factory=dict)
    """The pipeline's input; `GET /v1/pipelines` has its schema."""
    run_at: Time | None = None
    """The earliest start; a past time means now. Not together with `delay`."""
    delay: Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)] | None = None
    """Seconds until the earliest start."""
    priority: Priority = 5
    """0 is first, 9 is last."""
    expires_in: Seconds | None = None
    """Most seconds from `run_at` (or creation) to the first start; then the job expires."""
    deadline: Seconds | None = None
    """Most seconds from the first start for all steps together."""
    approval: bool = False
    """Stop before the last step until a person approves."""
    unique_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """At most one unfinished job per account, pipeline and key."""
    callback_url: CallbackUrl | None = None
    """Called when the job ends, by Standard Webhooks: `{type: "job.ended", timestamp, data: job}`, signed with the
    account's webhook secret, retried for about a day. `GET /v1/jobs/{id}/deliveries` lists every attempt."""
    tags: list[Label] = Field(default_factory=list, max_length=MAX_TAGS)


class JobBatch(Body):
    """Jobs that are accepted together or not at all."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [JOB_EXAMPLE]}]})

    jobs: list[JobRequest] = Field(min_length=1, max_length=1000)


class Rejection(Body):
    """Why a job is rejected."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "The title is misleading"}]})

    reason: Annotated[str, Field(max_length=2000)] | None = None


#: The field's description; `docs/pipelines.md` explains each code.
_ERROR_CODES = (
    "`step_failed`, `not_declared`, `rejected`, `timed_out`, `deadline_passed`, `crashed`, `out_of_memory`, `lost`, "
    "`outcome_unknown`, `login_required`, `content_blocked`, `output_truncated`, `provider_error`, `publish_failed`, "
    "`readback_mismatch`, `callback_failed`, `unsafe_url`, `unavailable`, `internal`, or a code of the pipeline's own."
)


class JobError(Answer):
    """Why a job failed."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description=_ERROR_CODES)
    message: str
    step: str | None = None


class StepError(Answer):
    """Why a step or an attempt failed."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description=_ERROR_CODES)
    message: str


class AttemptView(Answer):
    """One execution of a step."""

    number: int
    worker: str
    started_at: Time
    finished_at: Time | None
    outcome: Outcome | None = Field(description="Null while it runs.")
    error: StepError | None


class StepView(Answer):
    """One part of a job."""

    id: Id
    name: str
    lane: str
    status: StepStatus
    required: bool
    attempt: int
    max_attempts: int
    progress: int = Field(ge=0, le=100)
    note: str
    queued_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    output: JsonObject | None
    error: StepError | None
    attempts: list[AttemptView]


class JobSummary(Answer):
    """A job in a list."""

    id: Id
    account: AccountName
    pipeline: str
    status: JobStatus
    priority: int = Field(ge=0, le=9)
    error: JobError | None
    progress: int = Field(ge=0, le=100)
    current_step: str | None
    failed_step: str | None
    cancel_requested_at: Time | None
    queue_position: int | None = Field(description="0 is next; only in the answer for a single job.")
    estimated_wait: float | None = Field(description="Seconds.")
    run_at: Time
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    expires_at: Time | None
    deadline_at: Time | None
    unique_key: str | None
    tags: list[str]
    callback_url: str | None


class JobView(JobSummary):
    """One run of a pipeline for an account."""

    input: JsonObject
    result: JsonObject | None
    steps: list[StepView]


class JobQuery(Query):
    """Parameters of the call for one job."""

    wait: float | None = Field(default=None, ge=0, le=60, allow_inf_nan=False)
    """Most seconds to wait for the job's end."""


class JobEventsQuery(Query):
    """Parameters of a job's stream."""

    follow: bool = Field(
        default=True, description="False: end after the stored events; `end` is sent only if the job has ended."
    )


class JobsQuery(Paging):
    """Filters of the list of jobs."""

    account: AccountName | None = None
    status: JobStatus | None = None
    pipeline: str | None = None
    tag: str | None = None
    created_after: QueryTime | None = None
    created_before: QueryTime | None = None
    q: str | None = Field(default=None, max_length=200)
    """A prefix of the id, a tag or the unique key."""


class WhyItem(Answer):
    """One reason why a job does not run now."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"required": ["code", "message"]})

    code: Literal[
        "scheduled",
        "not_dispatched",
        "behind_other_jobs",
        "at_concurrency",
        "rate_limited",
        "account_paused",
        "account_suspended",
        "queue_paused",
        "lane_paused",
        "retry_backoff",
        "provider_backoff",
        "provider_refused",
        "awaiting_approval",
        "login_required",
        "circuit_open",
        "no_worker",
        "redis_unavailable",
    ]
    message: str
    until: Time | None = None
    count: int | None = None


class ArtifactView(Answer):
    """A file that an attempt stored."""

    name: str
    content_type: str
    size: int = Field(description="Bytes.")
    url: str = Field(description="The signed path of the file on this service; it expires.")
    step: str
    created_at: Time


class ArtifactQuery(Query):
    """Parameters of a signed address."""

    expires: int = Field(ge=0, le=10**12)
    """When the address expires, in seconds since the epoch."""
    signature: str = Field(min_length=1, max_length=100)
