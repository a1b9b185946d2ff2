"""The tables. Times are the database's, ids UUIDv7 strings; sealed columns hold ciphertext only.

One module, however long: migrations are held against it, and a table is read beside those that refer to it.

State and counters change only by the guarded single UPDATEs of `tenants.store`, never through an ORM attribute:
read-modify-write from several threads loses updates. `docs/states.md` draws the states.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import uuid_utils
from sqlalchemy import Boolean, Column, ForeignKey, Index, LargeBinary, MetaData, Table, UniqueConstraint, false, text
from sqlmodel import Field, SQLModel

from .columns import UtcTime, big_serial, exact_text, json_document, json_index

#: Names for every constraint, so that a migration can name what it changes.
NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Model(SQLModel):
    """Base of the tables, with metadata of their own."""

    if TYPE_CHECKING:
        __table__: ClassVar[Table]

    metadata = MetaData(naming_convention=NAMING)


def new_id() -> str:
    """A UUIDv7: sorts by the time of its making."""
    return str(uuid_utils.uuid7())


def derived_id(seed: str, *of: object) -> str:
    """The UUIDv7 that belongs to a seed (itself one) and these things: the same for the same."""
    digest = hashlib.sha256("\0".join((seed, *map(str, of))).encode()).digest()
    number = uuid.UUID(seed).int >> 80 << 80 | int.from_bytes(digest[:10])
    number = number & ~(0xF << 76) | 7 << 76  # the version
    return str(uuid.UUID(int=number & ~(0b11 << 62) | 0b10 << 62))  # the variant


def _time(*, nullable: bool = True, index: bool = False) -> Column[Any]:
    return Column(UtcTime(), nullable=nullable, index=index)


def _account() -> Column[Any]:
    return Column(exact_text(), nullable=False)


def _partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Of the rows that meet the condition, on either database: a condition on one alone would be P1 on one alone."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class Account(Model, table=True):
    """An account that has been used or configured. `status`: active, paused, draining, suspended."""

    __tablename__ = "accounts"
    __table_args__ = (Index("ix_accounts_status", "status", "id"),)
    id: str = Field(sa_column=Column(exact_text(), primary_key=True))
    status: str = "active"
    limits: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    target: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    created_at: datetime = Field(sa_column=_time(nullable=False))
    updated_at: datetime = Field(sa_column=_time(nullable=False))


class Lane(Model, table=True):
    """Settings of a lane that somebody made."""

    __tablename__ = "lanes"
    lane: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    paused: bool = False
    global_concurrency: int | None = None


class TenantQueue(Model, table=True):
    """Settings of a tenant queue that somebody made (its messages live in Redis and in `steps`)."""

    __tablename__ = "tenant_queues"
    lane: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    paused: bool = False
    paused_until: datetime | None = Field(sa_column=_time())
    reason: str | None = None


class ApiKey(Model, table=True):
    """A key's hash; the key itself is shown once and kept nowhere."""

    __tablename__ = "api_keys"
    id: str = Field(default_factory=new_id, primary_key=True)
    hash: str = Field(unique=True)
    scope: str
    account: str | None = Field(default=None, sa_column=Column(exact_text(), index=True))
    name: str = ""
    hint: str = ""
    created_at: datetime = Field(sa_column=_time(nullable=False))
    expires_at: datetime | None = Field(sa_column=_time())
    last_used_at: datetime | None = Field(sa_column=_time())
    revoked_at: datetime | None = Field(sa_column=_time())


class Job(Model, table=True):
    """One run of a pipeline for an account. `seq` orders the jobs of all accounts, and a tenant queue's messages."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_account_seq", "account", "seq"),
        Index("ix_jobs_status_seq", "status", "seq"),
        Index("ix_jobs_account_status_seq", "account", "status", "seq"),
        Index("ix_jobs_pipeline_seq", "pipeline", "seq"),
        _partial_index("ix_jobs_scheduled", "run_at", where="status = 'scheduled'"),
        _partial_index("ix_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
        _partial_index(
            "uq_jobs_unfinished_unique_key",
            "account",
            "pipeline",
            "unique_key",
            where="unique_key IS NOT NULL AND finished_at IS NULL",
            unique=True,
        ),
        _partial_index("ix_jobs_deadline", "deadline_at", where="deadline_at IS NOT NULL AND finished_at IS NULL"),
        _partial_index(
            "ix_jobs_expiry",
            "expires_at",
            where="expires_at IS NOT NULL AND started_at IS NULL AND finished_at IS NULL",
        ),
        _partial_index("ix_jobs_ended_job_id", "ended_job_id", where="ended_job_id IS NOT NULL"),
        _partial_index("ix_jobs_unique_key", "unique_key", "seq", where="unique_key IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    account: str = Field(sa_column=_account())
    pipeline: str
    status: str
    priority: int = 5
    input: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    result: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    current_step: str | None = None
    failed_step: str | None = None
    approval: bool = False
    #: The draft's `content_version` that was approved, 0 for a job without a draft; null: nothing was.
    approved_version: int | None = None
    cancel_requested_at: datetime | None = Field(sa_column=_time())
    run_at: datetime = Field(sa_column=_time(nullable=False))
    created_at: datetime = Field(sa_column=_time(nullable=False))
    started_at: datetime | None = Field(sa_column=_time())
    finished_at: datetime | None = Field(sa_column=_time())
    expires_at: datetime | None = Field(sa_column=_time())
    #: Seconds from the first start to the deadline, as the caller gave it; `deadline_at` is set at the first start.
    deadline_seconds: float | None = None
    deadline_at: datetime | None = Field(sa_column=_time())
    unique_key: str | None = Field(default=None, sa_column=Column(exact_text()))
    tags: list[str] = Field(sa_column=Column(json_index(), nullable=False))
    callback_url: str | None = None
    #: Of a webhook's delivery: the job whose end it tells.
    ended_job_id: str | None = None


class JobTag(Model, table=True):
    """A tag of a job, to look jobs up by it. A trigger adds these with the job; they go with it."""

    __tablename__ = "job_tags"
    __table_args__ = (Index("ix_job_tags_tag", "tag", "job_seq"),)
    job_seq: int = Field(
        sa_column=Column(
            big_serial(), ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False
        )
    )
    tag: str = Field(sa_column=Column(exact_text(), primary_key=True))


class Step(Model, table=True):
    """One part of a job. `run_token` grows with each start; every later write of that attempt carries it."""

    __tablename__ = "steps"
    __table_args__ = (
        UniqueConstraint("job_id", "position"),
        _partial_index(
            "ix_steps_undispatched", "queued_at", where="status IN ('queued', 'retrying') AND dispatched_at IS NULL"
        ),
        _partial_index(
            "ix_steps_waiting", "lane", "account", "priority", "sequence", where="status IN ('queued', 'retrying')"
        ),
        # P1 by the database: two running steps can never hold one slot of a tenant queue.
        _partial_index("uq_steps_running_slot", "lane", "account", "slot", where="status = 'running'", unique=True),
        _partial_index("ix_steps_running_account", "account", where="status = 'running'"),
        _partial_index("ix_steps_running_worker", "worker_id", where="status = 'running'"),
    )
    id: str = Field(default_factory=new_id, primary_key=True)
    job_id: str = Field(sa_column=Column(ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False))
    account: str = Field(sa_column=_account())
    pipeline: str
    position: int
    name: str
    lane: str = Field(sa_column=Column(exact_text(64), nullable=False))
    status: str
    required: bool = True
    priority: int = 5
    #: The job's `seq`: the order within a tenant queue, kept when Redis is rebuilt.
    sequence: int = Field(sa_column=Column(big_serial(), nullable=False))
    #: Attempts that count; an orderly hand-back, a snooze or a busy provider does not.
    attempt: int = 0
    max_attempts: int = 1
    #: Attempts lost with their worker, against a budget of their own.
    lost: int = 0
    run_token: int = 0
    #: The run in which the function of an irreversible step was last entered; None if none was.
    entered_token: int | None = None
    slot: int | None = None
    worker_id: str | None = Field(default=None, sa_column=Column(exact_text(64)))
    progress: int = 0
    note: str = ""
    #: Not before this time: the job's `run_at`, or the end of a backoff.
    due_at: datetime | None = Field(sa_column=_time())
    queued_at: datetime | None = Field(sa_column=_time())
    dispatched_at: datetime | None = Field(sa_column=_time())
    started_at: datetime | None = Field(sa_column=_time())
    finished_at: datetime | None = Field(sa_column=_time())
    output: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))


class Attempt(Model, table=True):
    """One try of a step. `outcome` is null while it runs."""

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("step_id", "run_token"),
        Index("ix_attempts_lane_account_started", "lane", "account", "started_at"),
        Index("ix_attempts_job", "job_id"),
    )
    id: str = Field(default_factory=new_id, primary_key=True)
    step_id: str = Field(sa_column=Column(ForeignKey("steps.id", ondelete="CASCADE"), nullable=False))
    job_id: str
    account: str = Field(sa_column=_account())
    lane: str = Field(sa_column=Column(exact_text(64), nullable=False))
    number: int
    run_token: int
    slot: int
    worker: str
    started_at: datetime = Field(sa_column=_time(nullable=False))
    finished_at: datetime | None = Field(sa_column=_time())
    outcome: str | None = None
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    #: Of a webhook's delivery: what the receiver answered; null when it did not.
    status_code: int | None = None


class Draft(Model, table=True):
    """A generated post, `body` in Markdown. `status`: pending_publish publishing published needs_review discarded."""

    __tablename__ = "drafts"
    __table_args__ = (
        Index("ix_drafts_account_seq", "account", "seq"),
        Index("ix_drafts_status_seq", "status", "seq"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    account: str = Field(sa_column=_account())
    job_id: str = Field(unique=True)
    title: str
    body: str
    tags: list[str] = Field(sa_column=Column(json_document(), nullable=False))
    status: str = "pending_publish"
    #: Grows with every change: what `If-Match` names.
    version: int = 1
    #: Grows with every new title, body or tags: what an approval is for.
    content_version: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    created_at: datetime = Field(sa_column=_time(nullable=False))
    updated_at: datetime = Field(sa_column=_time(nullable=False))


class Publication(Model, table=True):
    """The ledger: one entry a draft. `status`: intent started confirmed unknown. It outlives every retry."""

    __tablename__ = "publications"
    id: str = Field(default_factory=new_id, primary_key=True)
    account: str = Field(sa_column=Column(exact_text(), nullable=False, index=True))
    draft_id: str = Field(unique=True)
    job_id: str = Field(index=True)
    publisher: str
    base_url: str
    marker: str = Field(unique=True)
    status: str = "intent"
    url: str | None = None
    external_id: str | None = None
    #: The last moment at which a request of ours could have left.
    started_at: datetime | None = Field(sa_column=_time())
    published_at: datetime | None = Field(sa_column=_time())
    note: str | None = None
    created_at: datetime = Field(sa_column=_time(nullable=False))
    updated_at: datetime = Field(sa_column=_time(nullable=False))


class DeadLetter(Model, table=True):
    """A step that will not be tried again by itself, or a message that belongs to no job."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("ix_dead_letters_account_seq", "account", "seq"),
        _partial_index("ix_dead_letters_open", "seq", where="resolution IS NULL"),
        _partial_index("ix_dead_letters_open_lane", "lane", "seq", where="resolution IS NULL"),
        _partial_index("ix_dead_letters_open_pipeline", "pipeline", "seq", where="resolution IS NULL"),
        _partial_index("ix_dead_letters_open_error_code", "error_code", "seq", where="resolution IS NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    account: str | None = Field(default=None, sa_column=Column(exact_text()))
    lane: str
    pipeline: str | None = None
    actor: str
    job_id: str | None = Field(default=None, index=True)
    step_id: str | None = Field(default=None, index=True)
    message: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    error_code: str
    error: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    attempts: int = 0
    created_at: datetime = Field(sa_column=_time(nullable=False))
    #: `replayed` or `discarded`; null while it is open.
    resolution: str | None = None
    resolved_at: datetime | None = Field(sa_column=_time())


class Session(Model, table=True):
    """An account's browser session, sealed. `status`: ready expired login_required."""

    __tablename__ = "sessions"
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    storage_state: bytes | None = Field(sa_column=Column(LargeBinary()))
    credentials: bytes | None = Field(sa_column=Column(LargeBinary()))
    status: str
    reason: str | None = None
    updated_at: datetime = Field(sa_column=_time(nullable=False))
    expires_at: datetime | None = Field(sa_column=_time())


class WebhookSecret(Model, table=True):
    """The sealed secret with which an account's webhooks are signed; the one before it signs too, for a while."""

    __tablename__ = "webhook_secrets"
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    secret: bytes = Field(sa_column=Column(LargeBinary(), nullable=False))
    previous: bytes | None = Field(sa_column=Column(LargeBinary()))
    previous_until: datetime | None = Field(sa_column=_time())
    created_at: datetime = Field(sa_column=_time(nullable=False))


class Artifact(Model, table=True):
    """Evidence of an attempt (a screenshot, a trace): a file under the data directory."""

    __tablename__ = "artifacts"
    id: str = Field(default_factory=new_id, primary_key=True)
    account: str = Field(sa_column=_account())
    job_id: str = Field(index=True)
    step_id: str
    run_token: int
    name: str
    content_type: str
    size: int
    path: str
    created_at: datetime = Field(sa_column=_time(nullable=False))


class Event(Model, table=True):
    """What happened to a job, in order; SSE resumes from `seq`."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_job_seq", "job_id", "seq"),
        Index("ix_events_account_seq", "account", "seq"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    account: str = Field(sa_column=_account())
    job_id: str
    type: str
    data: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    created_at: datetime = Field(sa_column=_time(nullable=False))


class Worker(Model, table=True):
    """A worker process; alive while `heartbeat_at` is younger than 15 s by the database's clock."""

    __tablename__ = "workers"
    id: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    host: str
    pid: int
    lanes: list[str] = Field(sa_column=Column(json_document(), nullable=False))
    threads: int
    busy: int = 0
    #: Whether it records the entering of irreversible steps; workers of earlier releases did not.
    records_entry: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    started_at: datetime = Field(sa_column=_time(nullable=False))
    heartbeat_at: datetime = Field(sa_column=_time(nullable=False, index=True))
    #: Set by an orderly stop, and by the rescuer once its steps were taken over.
    stopped_at: datetime | None = Field(sa_column=_time())


class ProviderBackoff(Model, table=True):
    """A provider's credential that has to rest (every step that uses it waits), or that is `refused` for good."""

    __tablename__ = "provider_backoffs"
    scope: str = Field(sa_column=Column(exact_text(), primary_key=True))
    until: datetime = Field(sa_column=_time(nullable=False))
    reason: str = ""
    refused: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


class Usage(Model, table=True):
    """What an account used in a UTC day."""

    __tablename__ = "usage"
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    day: str = Field(primary_key=True)
    jobs: int = 0
    seconds: float = 0.0
    tokens: int = Field(default=0, sa_column=Column(big_serial(), nullable=False))
    posts: int = 0
    bytes: int = Field(default=0, sa_column=Column(big_serial(), nullable=False))


class IdempotencyKey(Model, table=True):
    """The first answer to a POST with an `Idempotency-Key`.

    `status` is null while it is being made; `response` holds the seed of what is made then.
    """

    __tablename__ = "idempotency_keys"
    scope: str = Field(primary_key=True)
    #: Whose row is in the answer, so that it goes when the account does; null where the call was for no account.
    account: str | None = Field(default=None, sa_column=Column(exact_text(), index=True))
    body_hash: str
    status: int | None = None
    response: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    created_at: datetime = Field(sa_column=_time(nullable=False, index=True))
    #: The control plane that makes the answer; null: of a version that had no liveness.
    holder: str | None = None
    #: Of the call that makes it: whoever takes the key over writes another, and the first call's answer is refused.
    claim: str | None = None


class ControlPlane(Model, table=True):
    """A control plane's process; alive while `heartbeat_at` is younger than 10 s by the database's clock."""

    __tablename__ = "control_planes"
    id: str = Field(primary_key=True)
    host: str
    pid: int
    heartbeat_at: datetime = Field(sa_column=_time(nullable=False))


class Audit(Model, table=True):
    """Who did what, when, from where. A trigger of the database refuses to change or remove a row."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_actor_seq", "actor", "seq"),
        Index("ix_audit_action_seq", "action", "seq"),
        Index("ix_audit_target_seq", "target", "seq"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    at: datetime = Field(sa_column=_time(nullable=False))
    actor: str
    address: str
    action: str
    target: str
    details: dict[str, Any] | None = Field(sa_column=Column(json_document()))


class Erasure(Model, table=True):
    """An account's erasure, asked for and done. `status`: stopping removing checking completed. It stays."""

    __tablename__ = "erasures"
    __table_args__ = (
        # While it stands, nothing of the account comes into being; and nobody begins a second one.
        _partial_index("uq_erasures_unfinished_account", "account", where="finished_at IS NULL", unique=True),
    )
    id: str = Field(default_factory=new_id, primary_key=True)
    account: str = Field(sa_column=_account())
    status: str
    #: What runs is killed; else it is waited for.
    forced: bool = False
    requested_by: str = ""
    #: How many rows of each table, and things outside the database, were removed so far.
    removed: dict[str, int] = Field(sa_column=Column(json_document(), nullable=False))
    #: What the last check found of the account; null before it.
    remaining: int | None = None
    created_at: datetime = Field(sa_column=_time(nullable=False))
    #: When the status changed last.
    updated_at: datetime = Field(sa_column=_time(nullable=False))
    finished_at: datetime | None = Field(sa_column=_time())


class Schedule(Model, table=True):
    """When an account's jobs are made by themselves. `next_fire_at` is null where nothing is to come, or it is off."""

    __tablename__ = "schedules"
    __table_args__ = (
        Index("ix_schedules_account_seq", "account", "seq"),
        # The due ones are found by it, however many there are.
        _partial_index("ix_schedules_next_fire_at", "next_fire_at", where="next_fire_at IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    account: str = Field(sa_column=_account())
    name: str
    pipeline: str
    input: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    #: One input for each fire, instead of `input`; how many they are, and how many were taken.
    inputs: list[dict[str, Any]] | None = Field(sa_column=Column(json_document()))
    inputs_total: int | None = None
    inputs_taken: int = 0
    cron: str | None = None
    every: float | None = None
    at: list[str] | None = Field(sa_column=Column(json_document()))
    spread: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    timezone: str = "UTC"
    jitter: float = 0.0
    overlap: str = "queue"
    #: Its jobs stop before their last step until somebody approves.
    approval: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    #: What its jobs get besides the input.
    callback_url: str | None = None
    priority: int = Field(default=5, sa_column_kwargs={"server_default": "5"})
    tags: list[str] = Field(sa_column=Column(json_document(), nullable=False, server_default="[]"))
    catch_up: str = "one"
    starts_at: datetime = Field(sa_column=_time(nullable=False))
    ends_at: datetime | None = Field(sa_column=_time())
    enabled: bool = True
    next_fire_at: datetime | None = Field(sa_column=_time())
    last_fire_at: datetime | None = Field(sa_column=_time())
    created_at: datetime = Field(sa_column=_time(nullable=False))
    updated_at: datetime = Field(sa_column=_time(nullable=False))


class Fire(Model, table=True):
    """What became of a schedule's time; unique, so that it comes once. `outcome`: fired skipped missed refused."""

    __tablename__ = "fires"
    __table_args__ = (
        UniqueConstraint("schedule_id", "fire_at"),
        Index("ix_fires_schedule_seq", "schedule_id", "seq"),
        _partial_index("ix_fires_unfinished", "schedule_id", where="unfinished"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    schedule_id: str = Field(sa_column=Column(ForeignKey("schedules.id", ondelete="CASCADE"), nullable=False))
    account: str = Field(sa_column=_account())
    fire_at: datetime = Field(sa_column=_time(nullable=False))
    outcome: str
    job_id: str | None = None
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    #: Its job had not ended when it was last looked at: what `overlap` asks for.
    unfinished: bool = False
    created_at: datetime = Field(sa_column=_time(nullable=False, index=True))


class Circuit(Model, table=True):
    """Steps of a tenant queue that ended for good in a row; open: nothing starts until `until`, and then one canary.

    There is no row where the last step went well.
    """

    __tablename__ = "circuits"
    __table_args__ = (_partial_index("ix_circuits_open", "lane", "account", where="opened_at IS NOT NULL"),)
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    lane: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    failures: int = 0
    opened_at: datetime | None = Field(sa_column=_time())
    #: Of an open one: nothing starts before it. A canary that starts puts it off by `cooldown_seconds`.
    until: datetime | None = Field(sa_column=_time())
    cooldown_seconds: float | None = None
    #: The attempt that was let through last.
    canary_step_id: str | None = None
    canary_run_token: int | None = None
    updated_at: datetime = Field(sa_column=_time(nullable=False, index=True))


class Alert(Model, table=True):
    """Something that a person should hear of. All that is alike has one row, which counts.

    `kind`: dead_letter login_required needs_review circuit_open circuit_closed provider_refused.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        _partial_index("ix_alerts_due_at", "due_at", where="due_at IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    #: Kind, account and subject: what makes two alerts alike.
    key: str = Field(sa_column=Column(exact_text(), nullable=False, unique=True))
    kind: str
    account: str | None = Field(default=None, sa_column=Column(exact_text(), index=True))
    #: Ids and names of the latest; never an error's message, a URL or anything else that may hold a secret.
    details: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    job_id: str | None = None
    occurrences: int = 1
    #: Occurrences that were told, and that the message under way tells.
    told: int = 0
    telling: int = 0
    tries: int = 0
    #: Whose message is under way; null when none is.
    claim: str | None = None
    #: Positions of the channels that have not taken it yet, as `0,2`; empty: all.
    undelivered: str = ""
    first_at: datetime = Field(sa_column=_time(nullable=False))
    last_at: datetime = Field(sa_column=_time(nullable=False, index=True))
    #: When there is something to tell, or to try again; null: there is nothing.
    due_at: datetime | None = Field(sa_column=_time())
    #: No sooner is the like of it told again.
    rest_until: datetime | None = Field(sa_column=_time())
    sent_at: datetime | None = Field(sa_column=_time())
    given_up_at: datetime | None = Field(sa_column=_time())


class AlertHour(Model, table=True):
    """Messages that left in an hour of the clock, for the cap over all."""

    __tablename__ = "alert_hours"
    #: As `2026-11-21T22`, in UTC.
    hour: str = Field(primary_key=True)
    sent: int = 0


class Meta(Model, table=True):
    """Facts about the installation: Redis' generation and run id, the secret key's check value."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str
