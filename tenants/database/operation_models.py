"""Tables of the installation's operation: dead letters, alerts, processes, the audit log, idempotency."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, Index, false
from sqlmodel import Field

from .columns import big_serial, exact_text, json_document
from .model_base import Model, new_id, partial_index, time_column


class DeadLetter(Model, table=True):
    """A step that is not retried automatically, or a message that belongs to no job."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("ix_dead_letters_account_seq", "account", "seq"),
        partial_index("ix_dead_letters_open", "seq", where="resolution IS NULL"),
        partial_index("ix_dead_letters_open_lane", "lane", "seq", where="resolution IS NULL"),
        partial_index("ix_dead_letters_open_pipeline", "pipeline", "seq", where="resolution IS NULL"),
        partial_index("ix_dead_letters_open_error_code", "error_code", "seq", where="resolution IS NULL"),
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
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    #: `replayed` or `discarded`; null while it is open.
    resolution: str | None = None
    resolved_at: datetime | None = Field(sa_column=time_column())


class Alert(Model, table=True):
    """Something that needs a person's attention. Equal ones share a row, which counts them.

    `kind`: dead_letter login_required needs_review circuit_open circuit_closed provider_refused.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        partial_index("ix_alerts_due_at", "due_at", where="due_at IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = Field(default=None, sa_column=Column(big_serial(), primary_key=True, autoincrement=True))
    id: str = Field(default_factory=new_id, unique=True)
    #: Kind, account and subject: two alerts with the same key are equal.
    key: str = Field(sa_column=Column(exact_text(), nullable=False, unique=True))
    kind: str
    account: str | None = Field(default=None, sa_column=Column(exact_text(), index=True))
    #: Ids and names of the latest; never an error's message, a URL or anything else that may hold a secret.
    details: dict[str, Any] = Field(sa_column=Column(json_document(), nullable=False))
    job_id: str | None = None
    occurrences: int = 1
    #: Occurrences that sent messages have reported, and that the message being sent reports.
    told: int = 0
    telling: int = 0
    tries: int = 0
    #: Who is sending a message; null when none is being sent.
    claim: str | None = None
    #: Positions of the channels that have not accepted it yet, as `0,2`; empty: all.
    undelivered: str = ""
    first_at: datetime = Field(sa_column=time_column(nullable=False))
    last_at: datetime = Field(sa_column=time_column(nullable=False, index=True))
    #: When a message is to be sent, or to be tried again; null: none is.
    due_at: datetime | None = Field(sa_column=time_column())
    #: No message for this key is sent before it.
    rest_until: datetime | None = Field(sa_column=time_column())
    sent_at: datetime | None = Field(sa_column=time_column())
    given_up_at: datetime | None = Field(sa_column=time_column())


class AlertHour(Model, table=True):
    """Messages sent in an hour of the clock, for the cap over all channels."""

    __tablename__ = "alert_hours"
    #: As `2026-11-21T22`, in UTC.
    hour: str = Field(primary_key=True)
    sent: int = 0


class Worker(Model, table=True):
    """A worker process; alive while `heartbeat_at` is younger than 15 s by the database's clock."""

    __tablename__ = "workers"
    id: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    host: str
    pid: int
    lanes: list[str] = Field(sa_column=Column(json_document(), nullable=False))
    threads: int
    busy: int = 0
    #: Whether it records that an irreversible step's function is entered; workers of earlier releases did not.
    records_entry: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    started_at: datetime = Field(sa_column=time_column(nullable=False))
    heartbeat_at: datetime = Field(sa_column=time_column(nullable=False, index=True))
    #: Set by an orderly stop, and by the rescuer after it has taken over the worker's steps.
    stopped_at: datetime | None = Field(sa_column=time_column())


class ControlPlane(Model, table=True):
    """A control plane's process; alive while `heartbeat_at` is younger than 10 s by the database's clock."""

    __tablename__ = "control_planes"
    id: str = Field(primary_key=True)
    host: str
    pid: int
    heartbeat_at: datetime = Field(sa_column=time_column(nullable=False))


class ProviderBackoff(Model, table=True):
    """A provider's credential that no step uses until a time, or that is `refused` for good."""

    __tablename__ = "provider_backoffs"
    scope: str = Field(sa_column=Column(exact_text(), primary_key=True))
    until: datetime = Field(sa_column=time_column(nullable=False))
    reason: str = ""
    refused: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


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
    at: datetime = Field(sa_column=time_column(nullable=False))
    actor: str
    address: str
    action: str
    target: str
    details: dict[str, Any] | None = Field(sa_column=Column(json_document()))


class IdempotencyKey(Model, table=True):
    """The first answer to a POST with an `Idempotency-Key`.

    `status` is null until the answer is known; until then `response` holds the seed of the ids.
    """

    __tablename__ = "idempotency_keys"
    scope: str = Field(primary_key=True)
    #: The account that the answer is about, with which it is erased; null where it is about none.
    account: str | None = Field(default=None, sa_column=Column(exact_text(), index=True))
    body_hash: str
    status: int | None = None
    response: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    created_at: datetime = Field(sa_column=time_column(nullable=False, index=True))
    #: The control plane that handles the request; null: of a version without heartbeats.
    holder: str | None = None
    #: Identifies the request. One that takes the key over writes its own, and the first one's answer is refused.
    claim: str | None = None


class Meta(Model, table=True):
    """Facts about the installation: Redis' generation and run id, the secret key's check value."""

    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str
