"""Drafts. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Literal, TypedDict

DraftStatus = Literal["pending_publish", "publishing", "published", "needs_review", "discarded"]


class Publication(TypedDict):
    """The publication ledger's entry about the post."""

    id: str
    publisher: str
    status: Literal["intent", "started", "confirmed", "unknown"]
    url: str | None
    external_id: str | None
    published_at: str | None


class Draft(TypedDict):
    """The text that a generate step wrote."""

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
