"""Drafts: list, read, and change those that are not published yet."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from sqlalchemy import Connection, RowMapping

from tenants.store.dispatch import Dispatch
from tenants.store.publishing import drafts as store

from ..http.auth import Access
from ..http.models import Listing, Query
from ..http.preconditions import wanted_version
from ..http.problems import Problem
from ..http.routing import Call, Reply, Route
from .models.drafts import DraftChange, DraftsQuery, DraftView

_FIELDS = ("id", "account", "job_id", "title", "body", "tags", "status", "version", "created_at")


def _view(row: RowMapping) -> dict[str, Any]:
    return {**{name: row[name] for name in _FIELDS}, "publication": store.publication_of(row)}


def _etag(row: RowMapping) -> dict[str, str]:
    return {"ETag": f'"{row["version"]}"'}


def list_drafts(call: Call[DraftsQuery, Any]) -> Reply:
    query = call.query
    if call.owner is not None and query.account not in (None, call.owner):
        return Reply({"items": [], "next_cursor": None})
    rows, following = call.service.database.read(
        lambda connection: store.page(
            connection,
            account=call.owner or query.account,
            status=query.status,
            limit=query.limit,
            cursor=query.cursor,
        )
    )
    return Reply({"items": [_view(row) for row in rows], "next_cursor": following})


def get_draft(call: Call[Query, Any]) -> Reply:
    row = call.service.database.read(lambda connection: store.fetch(connection, call.params["id"], call.owner))
    return Reply(_view(row), headers=_etag(row))


def change_draft(call: Call[Query, DraftChange]) -> Reply:
    header = call.request.headers.get("if-match")
    if header is None:
        raise Problem("precondition_required", 'send the version that you read, as If-Match: "<version>"')
    version = wanted_version(header)
    changes = call.body.model_dump(exclude_unset=True)

    def change(connection: Connection) -> tuple[RowMapping, RowMapping, list[Dispatch]]:
        before = store.fetch(connection, call.params["id"], call.owner)
        return before, *store.change(connection, before["id"], call.owner, version=version, changes=changes)

    before, row, withdrawn = call.service.database.write(change)
    call.service.runtime.dispatcher.withdraw(withdrawn)
    audit = {
        "account": row["account"],
        "before": _audit_of(before),
        "after": _audit_of(row),
        "changed": sorted(changes),
    }
    return Reply(_view(row), headers=_etag(row), audit=audit)


def _audit_of(row: RowMapping) -> dict[str, Any]:
    """A draft as the audit keeps it, with a digest instead of the text."""
    body = hashlib.sha256(row["body"].encode()).hexdigest()
    return {"version": row["version"], "title": row["title"], "tags": row["tags"], "body_sha256": body}


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the caller may see the draft of the path."""
    call.service.database.read(lambda connection: store.fetch(connection, call.params["id"], call.owner))


_route = partial(Route, tag="Drafts", access=Access.OWN)

ROUTES = [
    _route("GET", "/v1/drafts", list_drafts, "List drafts, newest first", {200: Listing[DraftView]}, query=DraftsQuery),
    _route("GET", "/v1/drafts/{id}", get_draft, "Get a draft", {200: DraftView}, headers=("ETag",)),
    _route(
        "PATCH",
        "/v1/drafts/{id}",
        change_draft,
        "Change a draft that is not published yet",
        {200: DraftView},
        body=DraftChange,
        codes=("draft_not_pending", "precondition_required", "stale_version"),
        exists=exists,
        headers=("ETag",),
        description=(
            "Needs `If-Match` with the version that was read, so that no change is lost. An approval "
            "does not cover the new text: a job whose last step was approved awaits approval again."
        ),
    ),
]
