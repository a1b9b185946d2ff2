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
    """What became of a tenant queue that was to be torn down."""

    cancelled: int
    """Jobs that this call cancelled because they waited in it."""
    deleted: bool
    """False: the queue is still there, because new work came or Redis went away."""


class ReapedQueue(TypedDict):
    """A tenant queue that was torn down, or would be."""

    lane: str
    account: str
    queue: str


class Reaped(TypedDict):
    """What the reaper did, or would do."""

    reaped: int
    queues: list[ReapedQueue]
    """The first 100."""


class Lane(TypedDict):
    """A lane over all accounts. The counts are null while Redis is away."""

    lane: str
    paused: bool
    global_concurrency: int | None
    waiting: int | None
    active: int | None
    delayed: int | None
    ready_accounts: int | None
    """Accounts that could start something now."""
    queues: int | None
    """Live tenant queues."""
    oldest_wait: float | None
    """Seconds."""


class AccountLoad(TypedDict):
    """What one account asks of a lane."""

    account: str | None
    """Null: messages that belong to no account."""
    seconds: float
    """Seconds that its steps used since the hour began (UTC)."""
    waiting: int
    share: float
    """Its part of the lane's seconds or backlog, as asked."""


class LaneWideLimits(TypedDict):
    """A lane's limits."""

    global_concurrency: int | None


class LetterError(TypedDict):
    """Why the last attempt failed."""

    code: str
    message: str


class DeadLetterSummary(TypedDict):
    """A dead letter as lists show it."""

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
    """What became of the dead letters that fit."""

    matched: int
    """Open letters that fitted before this call."""
    resolved: int
    """Letters that this call replayed or discarded; 0 in a dry run."""
    skipped: int
    """Letters whose job cannot go on, or that have no job to replay."""
    left: int
    """Letters that fit and were not looked at: call again."""
    stopped: str | None
    """Why the call ended early, such as a database that went away; else null."""
    ids: list[str]
    """The first 100 letters that were resolved, or in a dry run would be looked at."""


class DeadLetter(DeadLetterSummary):
    """A step that will not be tried again by itself."""

    message: dict[str, Any]
    traceback: str | None
    attempts: list[Attempt]


class RunningStep(TypedDict):
    """What a worker runs."""

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
    """Least and greatest delay between attempts, in seconds."""
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
    """One thing that somebody did."""

    id: int
    at: str
    actor: str
    """The key's scope and id; `admin:admin` is the key from the settings."""
    address: str
    action: str
    target: str
    details: dict[str, Any] | None
    """`before` and `after`, where that says more."""
