"""Jobs. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

JobStatus = Literal[
    "scheduled", "queued", "running", "awaiting_approval", "completed", "failed", "timed_out", "cancelled", "expired"
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
Outcome = Literal["completed", "failed", "timed_out", "cancelled", "lost", "snoozed", "provider_busy"]


class JobError(TypedDict):
    """Why a job failed."""

    code: str
    """`step_failed`, `not_declared`, `rejected`, `timed_out`, `deadline_passed`, `crashed`, `out_of_memory`, `lost`,
    `outcome_unknown`, `login_required`, `content_blocked`, `output_truncated`, `provider_error`, `publish_failed`,
    `readback_mismatch`, `callback_failed`, `unsafe_url`, `unavailable`, `internal`, or a code of the pipeline's
    own."""
    message: str
    step: NotRequired[str | None]


class JobSummary(TypedDict):
    """A job in a list."""

    id: str
    account: str
    pipeline: str
    status: JobStatus
    priority: int
    error: JobError | None
    progress: int
    current_step: str | None
    failed_step: str | None
    cancel_requested_at: str | None
    queue_position: int | None
    """0 is next; only in the answer for a single job."""
    estimated_wait: float | None
    """Seconds."""
    run_at: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None
    deadline_at: str | None
    unique_key: str | None
    tags: list[str]
    callback_url: str | None


class StepError(TypedDict):
    """Why a step or an attempt failed."""

    code: str
    """`step_failed`, `not_declared`, `rejected`, `timed_out`, `deadline_passed`, `crashed`, `out_of_memory`, `lost`,
    `outcome_unknown`, `login_required`, `content_blocked`, `output_truncated`, `provider_error`, `publish_failed`,
    `readback_mismatch`, `callback_failed`, `unsafe_url`, `unavailable`, `internal`, or a code of the pipeline's
    own."""
    message: str


class Attempt(TypedDict):
    """One execution of a step."""

    number: int
    worker: str
    started_at: str
    finished_at: str | None
    outcome: Outcome | None
    """Null while it runs."""
    error: StepError | None


class Step(TypedDict):
    """One part of a job."""

    id: str
    name: str
    lane: str
    status: StepStatus
    required: bool
    attempt: int
    max_attempts: int
    progress: int
    note: str
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    output: dict[str, Any] | None
    error: StepError | None
    attempts: list[Attempt]


class Job(JobSummary):
    """One run of a pipeline for an account."""

    input: dict[str, Any]
    result: dict[str, Any] | None
    steps: list[Step]


class WhyItem(TypedDict):
    """One reason why a job does not run now."""

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
    until: NotRequired[str | None]
    count: NotRequired[int | None]


class Artifact(TypedDict):
    """A file that an attempt stored."""

    name: str
    content_type: str
    size: int
    """Bytes."""
    url: str
    """The signed path of the file on this service; it expires."""
    step: str
    created_at: str
