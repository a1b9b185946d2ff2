"""Drafts and their publications."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from ...http.models import AccountName, Answer, Body, Id, Label, Paging, Time

DraftStatus = Literal["pending_publish", "publishing", "published", "needs_review", "discarded"]


class PublicationView(Answer):
    """The publication ledger's entry about the post."""

    id: Id
    publisher: str
    status: Literal["intent", "started", "confirmed", "unknown"]
    url: str | None
    external_id: str | None
    published_at: Time | None


class DraftView(Answer):
    """The text that a generate step wrote."""

    id: Id
    account: AccountName
    job_id: Id
    title: str
    body: str = Field(description="Markdown.")
    tags: list[str]
    status: DraftStatus
    version: int
    created_at: Time
    publication: PublicationView | None


class PublicationFound(Body):
    """Where the post was found."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://blog.example/2026/11/lanes"}]})

    url: Annotated[str, Field(min_length=10, max_length=2000, pattern=r"^https?://[^\s\x00-\x1f]+$")]
    """The post's address. It is stored unchanged and never opened."""
    external_id: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """The target's own id of the post."""


class DraftsQuery(Paging):
    """Filters of the list of drafts."""

    account: AccountName | None = None
    status: DraftStatus | None = None


class DraftChange(Body):
    """The changes; omitted fields stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "A better title"}], "minProperties": 1})

    title: Annotated[str, Field(min_length=1, max_length=500)] = Field(default_factory=str)
    body: Annotated[str, Field(min_length=1, max_length=500_000)] = Field(default_factory=str)
    """Markdown."""
    tags: Annotated[list[Label], Field(max_length=50)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give title, body or tags")
        return self
