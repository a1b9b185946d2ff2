"""Tenant queues, lanes, dead letters, workers, the audit; and pipelines."""

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
    NamePaging,
    Paging,
    Query,
    Time,
)
from .alerts import CircuitView
from .jobs import AttemptView

Idle = Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]


class QueueView(Answer):
    """A live tenant queue."""

    lane: str
    account: str | None = Field(description="Null: messages that belong to no account.")
    queue: str
    waiting: int
    active: int
    delayed: int
    last_used_at: Time | None
    paused: bool
    circuit: CircuitView | None = Field(description="Null while it is closed.")


class QueuesQuery(NamePaging):
    """Filters of the list of tenant queues."""

    lane: str | None = Field(default=None, max_length=64)
    account: AccountName | None = None
    idle_longer_than: Idle | None = None
    """Seconds."""


class ForceQuery(Query):
    """Whether to cancel waiting jobs."""

    force: bool = False


class QueueDeleted(Answer):
    """The result of deleting a tenant queue."""

    cancelled: int = Field(description="Jobs in the queue that this call cancelled.")
    deleted: bool = Field(description="False: the queue still exists, because new work came or Redis failed.")


class ReapRequest(Body):
    """Which tenant queues to delete."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"idle_longer_than": 3600, "dry_run": True}]})

    idle_longer_than: Idle | None = None
    """Seconds; the default is the setting."""
    dry_run: bool = False


class ReapedQueue(Answer):
    """A tenant queue that was deleted, or would be."""

    lane: str
    account: str
    queue: str


class Reaped(Answer):
    """The tenant queues that were deleted, or would be."""

    reaped: int
    queues: list[ReapedQueue] = Field(description="The first 100.")


class DeadLettersQuery(Paging):
    """Filters of the list of dead letters."""

    account: AccountName | None = None
    lane: str | None = Field(default=None, max_length=64)
    pipeline: str | None = Field(default=None, max_length=100)
    error_code: str | None = Field(default=None, max_length=64)


class LetterError(Answer):
    """Why the last attempt failed."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class DeadLetterSummary(Answer):
    """A dead letter in a list."""

    id: Id
    account: str | None
    lane: str
    pipeline: str | None
    actor: str
    job_id: str | None
    step_id: str | None
    error_code: str
    error: LetterError
    attempt_count: int
    created_at: Time
    resolution: Literal["replayed", "discarded"] | None
    resolved_at: Time | None


class DeadLetterView(DeadLetterSummary):
    """A step that will not be retried automatically."""

    message: JsonObject
    traceback: str | None
    attempts: list[AttemptView]


class LetterSelection(Body):
    """Which open dead letters; `{}` means all."""

    account: AccountName | None = None
    lane: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    pipeline: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    error_code: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class DiscardRequest(Body):
    """Which dead letters to discard."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"filter": {"lane": "publish"}, "dry_run": True}]})

    filter: LetterSelection
    dry_run: bool = False
    """Only count them."""


class ReplayRequest(DiscardRequest):
    """Which dead letters to replay, and how fast."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"filter": {"error_code": "provider_error"}, "per_second": 2}]}
    )

    per_second: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    """The most jobs that become due per second; without it all are due at once."""


class Resolved(Answer):
    """The result for the dead letters that match."""

    matched: int = Field(description="Open letters that matched before this call.")
    resolved: int = Field(description="Letters that this call replayed or discarded; 0 in a dry run.")
    skipped: int = Field(description="Letters without a job, or whose job cannot be continued.")
    left: int = Field(description="Letters that match and were not processed: call again.")
    stopped: str | None = Field(description="Why the call ended early, such as a database failure; else null.")
    ids: list[Id] = Field(description="The first 100 letters that were resolved, or in a dry run would be processed.")


class RunningStep(Answer):
    """A step that a worker is running."""

    step_id: Id
    job_id: Id
    account: str
    lane: str
    step: str
    started_at: Time | None


class WorkerView(Answer):
    """A live worker process."""

    id: str
    host: str
    pid: int
    lanes: list[str]
    threads: int
    busy: int
    started_at: Time
    heartbeat_at: Time
    running: list[RunningStep]


class PipelineStep(Answer):
    """A step and its limits."""

    name: str
    lane: str
    time_limit: float = Field(description="Seconds.")
    max_attempts: int
    backoff: list[float] = Field(description="Shortest and longest delay between attempts, in seconds.")
    isolation: Literal["process", "thread"]
    effect: Literal["pure", "idempotent", "irreversible"]
    required: bool


class PipelineView(Answer):
    """A pipeline."""

    name: str
    description: str
    lanes: list[str]
    steps: list[PipelineStep]
    input_schema: dict[str, Any] = Field(description="JSON schema of a job's `input`.")


class LaneView(Answer):
    """A lane over all accounts. The counts are null while Redis is down."""

    lane: str
    paused: bool
    global_concurrency: int | None
    waiting: int | None
    active: int | None
    delayed: int | None
    ready_accounts: int | None = Field(description="Accounts that could start a step now.")
    queues: int | None = Field(description="Live tenant queues.")
    oldest_wait: float | None = Field(description="Seconds.")


class HeaviestQuery(Query):
    """The order of a lane's accounts."""

    by: Literal["seconds", "backlog"] = "seconds"
    """`seconds`: used since the hour began; `backlog`: messages waiting now."""
    limit: int = Field(default=10, ge=1, le=100)
    """How many accounts at most."""


class AccountLoadView(Answer):
    """One account's load on a lane."""

    account: str | None = Field(description="Null: messages that belong to no account.")
    seconds: float = Field(description="Seconds that its steps used since the hour began (UTC).")
    waiting: int
    share: float = Field(ge=0, le=1, description="Its share of the lane's seconds or backlog, as requested.")


class LaneWideLimitsRequest(Body):
    """A lane's limits; omitted limits get their default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"global_concurrency": 20}]})

    global_concurrency: Annotated[int, Field(ge=1, le=100_000), WHOLE] | None = None
    """Most steps of the lane that run at one time, over all accounts and workers."""


class LaneWideLimitsView(Answer):
    """A lane's limits."""

    global_concurrency: int | None


class AuditQuery(Paging):
    """Filters of the audit; each must equal its field."""

    actor: str | None = Field(default=None, max_length=300)
    action: str | None = Field(default=None, max_length=300)
    target: str | None = Field(default=None, max_length=2000)


class AuditView(Answer):
    """One change that a caller made."""

    id: int
    at: Time
    actor: str = Field(description="The key's scope and id; `admin:admin` is the key from the settings.")
    address: str
    action: str
    target: str
    details: JsonObject | None = Field(description="Details of the change, such as `before` and `after`.")
