"""Tables of accounts: their settings, keys, sessions, use and erasure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field

from .columns import big_serial, exact_text, json_document
from .model_base import Model, account_column, new_id, partial_index, time_column


class Account(Model, table=True):
    """An account that has been used or configured. `status`: active, paused, draining, suspended."""

    __tablename__ = "accounts"
    __table_args__ = (Index("ix_accounts_status", "status", "id"),)
    id: str = Field(sa_column=Column(exact_text(), primary_key=True))
    status: str = "active"
    limits: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    target: dict[str, Any] | None = Field(sa_column=Column(json_document()))
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    updated_at: datetime = Field(sa_column=time_column(nullable=False))


class Lane(Model, table=True):
    """A lane's settings, where some were configured."""

    __tablename__ = "lanes"
    lane: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    paused: bool = False
    global_concurrency: int | None = None


class TenantQueue(Model, table=True):
    """A tenant queue's settings, where some were configured. Its messages are in Redis and in `steps`."""

    __tablename__ = "tenant_queues"
    lane: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    paused: bool = False
    paused_until: datetime | None = Field(sa_column=time_column())
    reason: str | None = None


class Circuit(Model, table=True):
    """A tenant queue's failures in a row. While it is open, nothing starts before `until`, and then one canary.

    There is no row where the last step succeeded.
    """

    __tablename__ = "circuits"
    __table_args__ = (partial_index("ix_circuits_open", "lane", "account", where="opened_at IS NOT NULL"),)
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    lane: str = Field(sa_column=Column(exact_text(64), primary_key=True))
    failures: int = 0
    opened_at: datetime | None = Field(sa_column=time_column())
    #: Of an open one: nothing starts before it. The start of a canary moves it by `cooldown_seconds`.
    until: datetime | None = Field(sa_column=time_column())
    cooldown_seconds: float | None = None
    #: The attempt of the last canary.
    canary_step_id: str | None = None
    canary_run_token: int | None = None
    updated_at: datetime = Field(sa_column=time_column(nullable=False, index=True))


class ApiKey(Model, table=True):
    """A key's hash; the key itself is shown once and kept nowhere."""

    __tablename__ = "api_keys"
    id: str = Field(default_factory=new_id, primary_key=True)
    hash: str = Field(unique=True)
    scope: str
    account: str | None = Field(default=None, sa_column=Column(exact_text(), index=True))
    name: str = ""
    hint: str = ""
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    expires_at: datetime | None = Field(sa_column=time_column())
    last_used_at: datetime | None = Field(sa_column=time_column())
    revoked_at: datetime | None = Field(sa_column=time_column())


class Session(Model, table=True):
    """An account's browser session, sealed. `status`: ready expired login_required."""

    __tablename__ = "sessions"
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    storage_state: bytes | None = Field(sa_column=Column(LargeBinary()))
    credentials: bytes | None = Field(sa_column=Column(LargeBinary()))
    status: str
    reason: str | None = None
    updated_at: datetime = Field(sa_column=time_column(nullable=False))
    expires_at: datetime | None = Field(sa_column=time_column())


class WebhookSecret(Model, table=True):
    """The sealed secret that signs an account's webhooks; the previous one signs too until `previous_until`."""

    __tablename__ = "webhook_secrets"
    account: str = Field(sa_column=Column(exact_text(), primary_key=True))
    secret: bytes = Field(sa_column=Column(LargeBinary(), nullable=False))
    previous: bytes | None = Field(sa_column=Column(LargeBinary()))
    previous_until: datetime | None = Field(sa_column=time_column())
    created_at: datetime = Field(sa_column=time_column(nullable=False))


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


class Erasure(Model, table=True):
    """An account's erasure. `status`: stopping removing checking completed. The row is kept for good."""

    __tablename__ = "erasures"
    __table_args__ = (
        # While an erasure is unfinished, nothing is created for the account, and no second one begins.
        partial_index("uq_erasures_unfinished_account", "account", where="finished_at IS NULL", unique=True),
    )
    id: str = Field(default_factory=new_id, primary_key=True)
    account: str = Field(sa_column=account_column())
    status: str
    #: Running steps are killed; else they are waited for.
    forced: bool = False
    requested_by: str = ""
    #: How many rows of each table, and objects outside the database, were removed so far.
    removed: dict[str, int] = Field(sa_column=Column(json_document(), nullable=False))
    #: How much of the account the last check found; null before it.
    remaining: int | None = None
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    #: When the status changed last.
    updated_at: datetime = Field(sa_column=time_column(nullable=False))
    finished_at: datetime | None = Field(sa_column=time_column())
