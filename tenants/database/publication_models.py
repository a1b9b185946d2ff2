"""Tables of what jobs produce: drafts, the ledger of publications, artifacts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Index, text
from sqlmodel import Field

from .columns import big_serial, exact_text, json_document
from .model_base import Model, account_column, new_id, time_column


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
    account: str = Field(sa_column=account_column())
    job_id: str = Field(unique=True)
    title: str
    body: str
    tags: list[str] = Field(sa_column=Column(json_document(), nullable=False))
    status: str = "pending_publish"
    #: Grows with every change; `If-Match` names it.
    version: int = 1
    #: Grows with every change of title, body or tags; an approval names it.
    content_version: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    updated_at: datetime = Field(sa_column=time_column(nullable=False))


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
    #: The last time at which a request could have been sent.
    started_at: datetime | None = Field(sa_column=time_column())
    published_at: datetime | None = Field(sa_column=time_column())
    note: str | None = None
    created_at: datetime = Field(sa_column=time_column(nullable=False))
    updated_at: datetime = Field(sa_column=time_column(nullable=False))


class Artifact(Model, table=True):
    """Evidence of an attempt (a screenshot, a trace): a file under the data directory."""

    __tablename__ = "artifacts"
    id: str = Field(default_factory=new_id, primary_key=True)
    account: str = Field(sa_column=account_column())
    job_id: str = Field(index=True)
    step_id: str
    run_token: int
    name: str
    content_type: str
    size: int
    path: str
    created_at: datetime = Field(sa_column=time_column(nullable=False))
