"""The shapes of the API's answers. Times are RFC 3339 text with offset, durations seconds, ids UUIDv7.

Written by `python -m orchestrator.web.typed_dicts` from the models that the service answers with; not by hand.
"""

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
DraftStatus = Literal["pending_publish", "publishing", "published", "needs_review", "discarded"]
AccountStatus = Literal["active", "paused", "draining", "suspended"]
SessionStatus = Literal["none", "ready", "expired", "login_required"]
Overlap = Literal["queue", "skip", "replace"]
CatchUp = Literal["none", "one", "all"]


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
    """A job as lists show it."""

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
    """One try of a step."""

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
    """A file that an attempt left behind."""

    name: str
    content_type: str
    size: int
    """Bytes."""
    url: str
    """The path of the file on this service, signed; it ends after a while."""
    step: str
    created_at: str


class DeliveryAttempt(TypedDict):
    """One try to call the receiver."""

    number: int
    started_at: str
    finished_at: str | None
    seconds: float | None
    """How long it took; null while it is under way."""
    outcome: Outcome | None
    """Null while it is under way."""
    status_code: int | None
    """What the receiver answered; null when it did not."""
    error: StepError | None


class Delivery(TypedDict):
    """The call of a job's `callback_url` at one of its ends. It is itself a job, of the pipeline `webhook`."""

    id: str
    """The `webhook-id` of every try."""
    type: Literal["job.ended"]
    job_status: JobStatus
    """How the job ended."""
    url: str
    status: JobStatus
    """`completed` once the receiver took it, `failed` once it was given up."""
    superseded: bool
    """The job went on before the receiver took this; its next end is delivered instead."""
    created_at: str
    finished_at: str | None
    next_attempt_at: str | None
    error: JobError | None
    dead_letter_id: str | None
    """The open dead letter, once the delivery was given up."""
    attempts: list[DeliveryAttempt]


class WebhookSecret(TypedDict):
    """What can be read of a secret."""

    created_at: str
    previous_until: str | None
    """Until then the secret before this one signs too."""


class NewWebhookSecret(WebhookSecret):
    """A secret that was just made."""

    secret: str
    """`whsec_…`, for a Standard Webhooks library. It is shown this once."""


class Publication(TypedDict):
    """The ledger's entry: what is known about the post."""

    id: str
    publisher: str
    status: Literal["intent", "started", "confirmed", "unknown"]
    url: str | None
    external_id: str | None
    published_at: str | None


class Draft(TypedDict):
    """What a generate step made."""

    id: str
    account: str
    job_id: str
    title: str
    body: str
    """Markdown."""
    tags: list[str]
    status: DraftStatus
    version: int
    created_at: str
    publication: Publication | None


class Spread(TypedDict):
    """Fires at drawn times of each day."""

    per_day: int
    window: list[str]
    min_gap: float


class ScheduleSummary(TypedDict):
    """A schedule as lists show it."""

    id: str
    account: str
    name: str
    pipeline: str
    cron: str | None
    every: float | None
    at: list[str] | None
    spread: Spread | None
    inputs_left: int | None
    """How many of `inputs` are still to come; null where there are none."""
    timezone: str
    jitter: float
    approval: bool
    callback_url: str | None
    priority: int
    tags: list[str]
    overlap: Overlap
    catch_up: CatchUp
    starts_at: str
    ends_at: str | None
    enabled: bool
    next_fire_at: str | None
    """Null when it is off, or nothing more is to come."""
    last_fire_at: str | None
    """When it last made a job."""
    created_at: str
    updated_at: str


class Schedule(ScheduleSummary):
    """A schedule."""

    input: dict[str, Any]
    inputs: list[dict[str, Any]] | None


class FireError(TypedDict):
    """What refused a fire's job."""

    code: str
    message: str


class Fire(TypedDict):
    """What became of one of a schedule's times."""

    fire_at: str
    outcome: Literal["fired", "skipped", "missed", "refused"]
    job_id: str | None
    error: FireError | None
    created_at: str


class AccountSummary(TypedDict):
    """An account as the list shows it."""

    account: str
    status: AccountStatus
    created_at: str
    updated_at: str


class Rate(TypedDict):
    """At most `limit` starts in `per` seconds."""

    limit: int
    per: float


class LaneLimits(TypedDict):
    """The limits of one tenant queue."""

    concurrency: int
    rate: Rate | None
    ordering: Literal["relaxed", "strict"]


class Limits(TypedDict):
    """An account's limits; what is not set has its default."""

    weight: int
    account_concurrency: int | None
    max_waiting: int | None
    daily_quota: int | None
    lanes: dict[str, LaneLimits]


class Circuit(TypedDict):
    """A tenant queue that rests because too many of its steps failed in a row."""

    status: Literal["open", "half_open"]
    """`half_open`: one step may start, or runs, as a canary."""
    failures: int
    """Steps in a row that ended for good without success, and canaries."""
    opened_at: str
    until: str
    """When the next canary may start."""


class AccountLane(TypedDict):
    """One tenant queue of the account."""

    lane: str
    queue: str
    waiting: int
    active: int
    delayed: int
    oldest_wait: float | None
    """Seconds."""
    last_used_at: str | None
    paused: bool
    circuit: Circuit | None
    """Null while it is closed."""


class Session(TypedDict):
    """What can be read of a session; its content is never returned."""

    status: SessionStatus
    updated_at: str | None
    expires_at: str | None


class Target(TypedDict):
    """Where the account publishes."""

    publisher: str
    base_url: str
    options: dict[str, Any]


class UsageDay(TypedDict):
    """What was used in one UTC day."""

    day: str
    jobs: int
    seconds: float
    tokens: int
    posts: int
    bytes: int


class Usage(TypedDict):
    """What the account used."""

    today: UsageDay
    days: list[UsageDay]
    """The last 30 days with any use, newest first."""


class Account(TypedDict):
    """An account."""

    account: str
    status: AccountStatus
    limits: Limits
    lanes: list[AccountLane]
    session: Session
    target: Target | None
    usage: Usage
    created_at: str
    updated_at: str


class UsageTotal(TypedDict):
    """Sums over the days."""

    jobs: int
    """Jobs accepted."""
    seconds: float
    """Seconds that attempts of steps took."""
    tokens: int
    """Tokens in and out, as the models' answers reported them."""
    posts: int
    """Posts that were confirmed."""
    bytes: int
    """Bytes of files that were kept."""


_UsageHistory = TypedDict("_UsageHistory", {"from": str})


class UsageHistory(_UsageHistory):
    """What the account used."""

    to: str
    items: list[UsageDay]
    """Days with any use, newest first."""
    total: UsageTotal


class ErasureBegun(TypedDict):
    """An erasure that was asked for."""

    erasure_id: str


class Erasure(TypedDict):
    """An erasure: how far it is, and what was removed."""

    id: str
    account: str
    status: Literal["stopping", "removing", "checking", "completed"]
    """`stopping`: what runs ends; `removing`: rows and files go; `checking`: Redis is emptied, and everything looked
    through; `completed`."""
    forced: bool
    requested_by: str
    """Scope and id of the key that asked for it."""
    running: int
    """Steps that still run."""
    removed: dict[str, int]
    """Rows of each table; `files`; and what Redis held when nothing ran any more: `redis_messages`, `redis_queues`,
    `redis_settings`."""
    remaining: int | None
    """What the last look at every table and at Redis found of the account; 0 once it is completed, null before the
    first look."""
    created_at: str
    updated_at: str
    """When the status changed last."""
    finished_at: str | None


class Key(TypedDict):
    """A key, without what opens the door."""

    id: str
    scope: Literal["admin", "account"]
    account: str | None
    name: str
    hint: str
    """The key's beginning and end, to recognise it."""
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewKey(Key):
    """A key that was just made."""

    key: str
    """The key itself. It is shown this once and kept nowhere."""


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


class Violation(TypedDict):
    """An invariant that did not hold, and that was repaired."""

    lane: str
    kind: str
    account: str | None
    detail: str


class Checked(TypedDict):
    """What a check of every tenant queue and lease found."""

    lanes: list[str]
    """The lanes that were checked."""
    violations: int
    """How many invariants did not hold."""
    items: list[Violation]
    """The first 100 of them."""


class Reconciled(TypedDict):
    """What was found and repaired."""

    requeued: int
    """Waiting steps that Redis did not have."""
    released: int
    """Steps that were taken from dead workers."""
    orphaned: int
    """Messages in Redis that had nothing to run; they were removed."""


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


class Alert(TypedDict):
    """What a person should know: all of one kind, account and subject together."""

    id: str
    kind: Literal["dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"]
    account: str | None
    """Null: it belongs to no account."""
    state: Literal["waiting", "resting", "told", "given_up"]
    """`waiting` for its message; `resting`: sent, and more of its kind are sent when the pause is over; `given_up`: a
    channel did not take it."""
    occurrences: int
    told: int
    """Occurrences that were sent."""
    details: dict[str, Any]
    """Ids, names and codes of the latest."""
    commands: list[str]
    """What helps."""
    first_at: str
    last_at: str
    sent_at: str | None
    due_at: str | None
    """When it is sent next."""


class Channel(TypedDict):
    """What became of a test message at one of the alert URLs."""

    position: int
    """Which of `ONELANE_ALERT_URLS`, from 1 on."""
    kind: str
    """The URL's scheme. The rest of it may hold a secret, and is never shown."""
    delivered: bool


class AlertsTested(TypedDict):
    """A test message went to every alert URL."""

    items: list[Channel]
    """Empty: no alert URL is set."""


class OpenCircuit(Circuit):
    """An open circuit, with whose it is."""

    lane: str
    account: str
    queue: str
    cooldown: float
    """Seconds; doubled each time that a canary fails."""


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


class Alive(TypedDict):
    """The process lives."""

    status: Literal["ok"]


class Parts(TypedDict):
    """What the service stands on."""

    database: Literal["ok", "degraded", "down", "none", "unknown"]
    redis: Literal["ok", "degraded", "down", "none", "unknown"]
    workers: Literal["ok", "degraded", "down", "none", "unknown"]
    """`none`: jobs are accepted, but no worker runs them."""


class Ready(TypedDict):
    """Whether jobs are accepted, and what is wrong where something is."""

    status: Literal["ok", "degraded", "down"]
    parts: Parts
    reasons: NotRequired[dict[str, str]]
    """Why a part is `degraded`, as `word: sentence`, such as `disk_full: …`."""
