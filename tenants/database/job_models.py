"""Tables of jobs: their steps, attempts and events, and what makes jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint, false
from sqlmodel import Field

from .columns import big_serial, exact_text, json_document, json_index
from .model_base import Model, account_column, new_id, partial_index, time_column


class Job(Model, table=True):
    """One run of a pipeline for an account. `seq` orders the jobs of all accounts, and a tenant queue's messages."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_account_seq", "account", "seq"),
        Index("ix_jobs_status_seq", "status", "seq"),
        Index("ix_jobs_account_status_seq", "account", "status", "seq"),
        Index("ix_jobs_pipeline_seq", "pipeline", "seq"),
        partial_index("ix_jobs_scheduled", "run_at", where="status = 'scheduled'"),
        partial_index("ix_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
        partial_index(
            "uq_jobs_unfinished_unique_key",
            "account",
            "pipeline",
            "unique_key",
            where="unique_key IS NOT NULL AND finished_at IS NULL",
            unique=True,
        ),
        partial_index("ix_jobs_deadline", "deadline_at", where="deadline_at IS NOT NULL AND finished_at IS NULL"),
        partial_index(
            "ix_jobs_expiry",
            "expires_at",
            where="expires_at IS NOT NULL AND started_at IS NULL AND finished_at IS NULL",
        ),
        partial_index("ix_jobs_ended_job_id", "ended_job_id", where="ended_job_id IS NOT NULL"),
        partial_index("ix_jobs_unique_key", "unique_key", "seq", where="unique_key IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    account: str = Field(sa_column=account_column())
    pipeline: str
    status: str
    priority: int = 5
    input: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    result: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    current_step: str | None = None
    failed_step: str | None = None
    approval: bool = False
    #: The draft's `content_version` that was approved, 0 for a job without a draft; null: not approved.
    approved_version: int | None = None
    cancel_requested_at: datetime | None = Field(sa_column=time_column())
    run_at: datetime = Field(sa_column=time_column(nullable=False))
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    started_at: datetime | None = Field(sa_column=time_column())
    finished_at: datetime | None = Field(sa_column=time_column())
    expires_at: datetime | None = Field(sa_column=time_column())
    #: Seconds from the first start to the deadline, as the caller gave it; `deadline_at` is set at the first start.
    deadline_seconds: float | None = None
    deadline_at: datetime | None = Field(sa_column=time_column())
    unique_key: str | None = Field(default=None, sa_column=Column(exact_text()))
    tags: list[str] = Field(sa_column=Column(json_index(), nullable=False))
    callback_url: str | None = None
    #: Of a webhook's delivery: the job whose end it reports.
    ended_job_id: str | None = None


class JobTag(Model, table=True):
    """A tag of a job, by which jobs are found. A trigger inserts these with the job; they are deleted with it."""

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
        partial_index(
            "ix_steps_undispatched", "queued_at", where="status IN ('queued', 'retrying') AND dispatched_at IS NULL"
        ),
        partial_index(
            "ix_steps_waiting", "lane", "account", "priority", "sequence", where="status IN ('queued', 'retrying')"
        ),
        # The database guarantees P1: two running steps never hold one slot of a tenant queue.
        partial_index("uq_steps_running_slot", "lane", "account", "slot", where="status = 'running'", unique=True),
        partial_index("ix_steps_running_account", "account", where="status = 'running'"),
        partial_index("ix_steps_running_worker", "worker_id", where="status = 'running'"),
    )
    id: str = Field(default_factory=new_id, primary_key=True)
    job_id: str = Field(sa_column=Column(ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False))
    account: str = Field(sa_column=account_column())
    pipeline: str
    position: int
    name: str
    lane: str = Field(sa_column=Column(exact_text(64), nullable=False))
    status: str
    required: bool = True
    priority: int = 5
    #: The job's `seq`: the order within a tenant queue, kept when Redis is rebuilt.
    sequence: int = Field(sa_column=Column(big_serial(), nullable=False))
    #: Attempts that count. An orderly hand-back, a snooze and a busy provider do not.
    attempt: int = 0
    max_attempts: int = 1
    #: Attempts lost with their worker; they have a limit of their own.
    lost: int = 0
    run_token: int = 0
    #: The run token with which an irreversible step's function was last entered; null if it never was.
    entered_token: int | None = None
    slot: int | None = None
    worker_id: str | None = Field(default=None, sa_column=Column(exact_text(64)))
    progress: int = 0
    note: str = ""
    #: Not before this time: the job's `run_at`, or the end of a backoff.
    due_at: datetime | None = Field(sa_column=time_column())
    queued_at: datetime | None = Field(sa_column=time_column())
    dispatched_at: datetime | None = Field(sa_column=time_column())
    started_at: datetime | None = Field(sa_column=time_column())
    finished_at: datetime | None = Field(sa_column=time_column())
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
    account: str = Field(sa_column=account_column())
    lane: str = Field(sa_column=Column(exact_text(64), nullable=False))
    number: int
    run_token: int
    slot: int
    worker: str
    started_at: datetime = Field(sa_column=time_column(nullable=False))
    finished_at: datetime | None = Field(sa_column=time_column())
    outcome: str | None = None
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    #: Of a webhook's delivery: the receiver's status code; null without an answer.
    status_code: int | None = None


class Event(Model, table=True):
    """What happened to a job, in order; SSE resumes from `seq`."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_job_seq", "job_id", "seq"),
        Index("ix_events_account_seq", "account", "seq"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    account: str = Field(sa_column=account_column())
    job_id: str
    type: str
    data: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    created_at: datetime = Field(sa_column=time_column(nullable=False))


class Schedule(Model, table=True):
    """When jobs of an account are made. `next_fire_at` is null where no fire follows, or the schedule is off."""

    __tablename__ = "schedules"
    __table_args__ = (
        Index("ix_schedules_account_seq", "account", "seq"),
        partial_index("ix_schedules_next_fire_at", "next_fire_at", where="next_fire_at IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    account: str = Field(sa_column=account_column())
    name: str
    pipeline: str
    input: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    #: One input for each fire, instead of `input`; how many there are, and how many were used.
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
    #: Its jobs wait for approval before their last step.
    approval: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    #: Copied to its jobs.
    callback_url: str | None = None
    priority: int = Field(default=5, sa_column_kwargs={"server_default": "5"})
    tags: list[str] = Field(sa_column=Column(json_document(), nullable=False, server_default="[]"))
    catch_up: str = "one"
    starts_at: datetime = Field(sa_column=time_column(nullable=False))
    ends_at: datetime | None = Field(sa_column=time_column())
    enabled: bool = True
    next_fire_at: datetime | None = Field(sa_column=time_column())
    last_fire_at: datetime | None = Field(sa_column=time_column())
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    updated_at: datetime = Field(sa_column=time_column(nullable=False))


class Fire(Model, table=True):
    """One fire of a schedule; unique by its time. `outcome`: fired skipped missed refused."""

    __tablename__ = "fires"
    __table_args__ = (
        UniqueConstraint("schedule_id", "fire_at"),
        Index("ix_fires_schedule_seq", "schedule_id", "seq"),
        partial_index("ix_fires_unfinished", "schedule_id", where="unfinished"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    schedule_id: str = Field(sa_column=Column(ForeignKey("schedules.id", ondelete="CASCADE"), nullable=False))
    account: str = Field(sa_column=account_column())
    fire_at: datetime = Field(sa_column=time_column(nullable=False))
    outcome: str
    job_id: str | None = None
    error: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    #: Its job had not ended at the last check; `overlap` decides by it.
    unfinished: bool = False
    created_at: datetime = Field(sa_column=time_column(nullable=False, index=True))
