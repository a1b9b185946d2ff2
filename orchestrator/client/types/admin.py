"""Admin. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from .alerts import Circuit
from .jobs import Attempt


class Queue(TypedDict):
    """A live tenant queue."""

    lane: str
    account: str | None
    """Null: messages that belong to no account."""
    queue: str
    waiting: int
    active: int
    delayed: int
    last_used_at: str | None
    paused: bool
    circuit: Circuit | None
    """Null while it is closed."""


class QueueDeleted(TypedDict):
    """The result of deleting a tenant queue."""

    cancelled: int
    """Jobs in the queue that this call cancelled."""
    deleted: bool
    """False: the queue still exists, because new work came or Redis failed."""


class ReapedQueue(TypedDict):
    """A tenant queue that was deleted, or would be."""

    lane: str
    account: str
    queue: str


class Reaped(TypedDict):
    """The tenant queues that were deleted, or would be."""

    reaped: int
    queues: list[ReapedQueue]
    """The first 100."""


class Lane(TypedDict):
    """A lane over all accounts. The counts are null while Redis is down."""

    lane: str
    paused: bool
    global_concurrency: int | None
    waiting: int | None
    active: int | None
    delayed: int | None
    ready_accounts: int | None
    """Accounts that could start a step now."""
    queues: int | None
    """Live tenant queues."""
    oldest_wait: float | None
    """Seconds."""


class AccountLoad(TypedDict):
    """One account's load on a lane."""

    account: str | None
    """Null: messages that belong to no account."""
    seconds: float
    """Seconds that its steps used since the hour began (UTC)."""
    waiting: int
    share: float
    """Its share of the lane's seconds or backlog, as requested."""


class LaneWideLimits(TypedDict):
    """A lane's limits."""

    global_concurrency: int | None


class LetterError(TypedDict):
    """Why the last attempt failed."""

    code: str
    message: str


class DeadLetterSummary(TypedDict):
    """A dead letter in a list."""

    id: str
    account: str | None
    lane: str
    pipeline: str | None
    actor: str
    job_id: str | None
    step_id: str | None
    error_code: str
    error: LetterError
    attempt_count: int
    created_at: str
    resolution: Literal["replayed", "discarded"] | None
    resolved_at: str | None


class Resolved(TypedDict):
    """The result for the dead letters that match."""

    matched: int
    """Open letters that matched before this call."""
    resolved: int
    """Letters that this call replayed or discarded; 0 in a dry run."""
    skipped: int
    """Letters without a job, or whose job cannot be continued."""
    left: int
    """Letters that match and were not processed: call again."""
    stopped: str | None
    """Why the call ended early, such as a database failure; else null."""
    ids: list[str]
    """The first 100 letters that were resolved, or in a dry run would be processed."""


class DeadLetter(DeadLetterSummary):
    """A step that will not be retried automatically."""

    message: dict[str, Any]
    traceback: str | None
    attempts: list[Attempt]


class RunningStep(TypedDict):
    """A step that a worker is running."""

    step_id: str
    job_id: str
    account: str
    lane: str
    step: str
    started_at: str | None


class Worker(TypedDict):
    """A live worker process."""

    id: str
    host: str
    pid: int
    lanes: list[str]
    threads: int
    busy: int
    started_at: str
    heartbeat_at: str
    running: list[RunningStep]


class PipelineStep(TypedDict):
    """A step and its limits."""

    name: str
    lane: str
    time_limit: float
    """Seconds."""
    max_attempts: int
    backoff: list[float]
    """Shortest and longest delay between attempts, in seconds."""
    isolation: Literal["process", "thread"]
    effect: Literal["pure", "idempotent", "irreversible"]
    required: bool


class Pipeline(TypedDict):
    """A pipeline."""

    name: str
    description: str
    lanes: list[str]
    steps: list[PipelineStep]
    input_schema: dict[str, Any]
    """JSON schema of a job's `input`."""


class Audit(TypedDict):
    """One change that a caller made."""

    id: int
    at: str
    actor: str
    """The key's scope and id; `admin:admin` is the key from the settings."""
    address: str
    action: str
    target: str
    details: dict[str, Any] | None
    """Details of the change, such as `before` and `after`."""
