"""What only an admin sees: tenant queues, dead letters, workers; and pipelines, which everybody sees."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .alerts import CircuitView
from .base import LONGEST_SECONDS, WHOLE, AccountName, Answer, Body, Id, JsonObject, NamePaging, Paging, Query, Time
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
    """Which tenant queues a list holds."""

    lane: str | None = Field(default=None, max_length=64)
    account: AccountName | None = None
    idle_longer_than: Idle | None = None
    """Seconds."""


class ForceQuery(Query):
    """Whether to go ahead."""

    force: bool = False


class QueueDeleted(Answer):
    """What became of a tenant queue that was to be torn down."""

    cancelled: int = Field(description="Jobs that this call cancelled because they waited in it.")
    deleted: bool = Field(description="False: the queue is still there, because new work came or Redis went away.")


class ReapRequest(Body):
    """Which tenant queues to tear down."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"idle_longer_than": 3600, "dry_run": True}]})

    idle_longer_than: Idle | None = None
    """Seconds; the setting when it is left out."""
    dry_run: bool = False


class ReapedQueue(Answer):
    """A tenant queue that was torn down, or would be."""

    lane: str
    account: str
    queue: str


class Reaped(Answer):
    """What the reaper did, or would do."""

    reaped: int
    queues: list[ReapedQueue] = Field(description="The first 100.")


class DeadLettersQuery(Paging):
    """Which dead letters a list holds."""

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
    """A dead letter as lists show it."""

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
    """A step that will not be tried again by itself."""

    message: JsonObject
    traceback: str | None
    attempts: list[AttemptView]


class LetterSelection(Body):
    """Which open dead letters; what is left out does not narrow, so `{}` means all."""

    account: AccountName | None = None
    lane: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    pipeline: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    error_code: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class DiscardRequest(Body):
    """Which dead letters to discard."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"filter": {"lane": "publish"}, "dry_run": True}]})

    filter: LetterSelection
    dry_run: bool = False
    """Only say how many it would be."""


class ReplayRequest(DiscardRequest):
    """Which dead letters to replay, and how fast."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"filter": {"error_code": "provider_error"}, "per_second": 2}]}
    )

    per_second: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    """At most so many of the jobs become due in a second; without it all are due at once."""


class Resolved(Answer):
    """What became of the dead letters that fit."""

    matched: int = Field(description="Open letters that fitted before this call.")
    resolved: int = Field(description="Letters that this call replayed or discarded; 0 in a dry run.")
    skipped: int = Field(description="Letters whose job cannot go on, or that have no job to replay.")
    left: int = Field(description="Letters that fit and were not looked at: call again.")
    stopped: str | None = Field(description="Why the call ended early, such as a database that went away; else null.")
    ids: list[Id] = Field(description="The first 100 letters that were resolved, or in a dry run would be looked at.")


class RunningStep(Answer):
    """What a worker runs."""

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
    backoff: list[float] = Field(description="Least and greatest delay between attempts, in seconds.")
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
    """A lane over all accounts. The counts are null while Redis is away."""

    lane: str
    paused: bool
    global_concurrency: int | None
    waiting: int | None
    active: int | None
    delayed: int | None
    ready_accounts: int | None = Field(description="Accounts that could start something now.")
    queues: int | None = Field(description="Live tenant queues.")
    oldest_wait: float | None = Field(description="Seconds.")


class HeaviestQuery(Query):
    """By what the accounts of a lane are ordered."""

    by: Literal["seconds", "backlog"] = "seconds"
    """`seconds`: used since the hour began; `backlog`: messages waiting now."""
    limit: int = Field(default=10, ge=1, le=100)
    """How many accounts at most."""


class AccountLoadView(Answer):
    """What one account asks of a lane."""

    account: str | None = Field(description="Null: messages that belong to no account.")
    seconds: float = Field(description="Seconds that its steps used since the hour began (UTC).")
    waiting: int
    share: float = Field(ge=0, le=1, description="Its part of the lane's seconds or backlog, as asked.")


class LaneWideLimitsRequest(Body):
    """A lane's limits; what is left out has its default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"global_concurrency": 20}]})

    global_concurrency: Annotated[int, Field(ge=1, le=100_000), WHOLE] | None = None
    """Most steps of the lane that run at one time, over all accounts and workers."""


class LaneWideLimitsView(Answer):
    """A lane's limits."""

    global_concurrency: int | None


class AuditQuery(Paging):
    """Which rows."""

    actor: str | None = Field(default=None, max_length=300)
    action: str | None = Field(default=None, max_length=300)
    target: str | None = Field(default=None, max_length=2000)


class AuditView(Answer):
    """One thing that somebody did."""

    id: int
    at: Time
    actor: str = Field(description="The key's scope and id; `admin:admin` is the key from the settings.")
    address: str
    action: str
    target: str
    details: JsonObject | None = Field(description="`before` and `after`, where that says more.")
