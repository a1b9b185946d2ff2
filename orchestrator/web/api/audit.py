"""The audit, as an admin reads it."""

from __future__ import annotations

from typing import Any

from tenants.store import audit as store

from ..http.auth import Access
from ..http.models import Listing
from ..http.routing import Call, Reply, Route
from .models.admin import AuditQuery, AuditView


def list_audit(call: Call[AuditQuery, Any]) -> Reply:
    query = call.query
    rows, following = call.service.database.read(
        lambda connection: store.page(
            connection,
            actor=query.actor,
            action=query.action,
            target=query.target,
            limit=query.limit,
            cursor=query.cursor,
        )
    )
    items = [{**{name: value for name, value in row.items() if name != "seq"}, "id": row["seq"]} for row in rows]
    return Reply({"items": items, "next_cursor": following})


ROUTES = [
    Route(
        "GET",
        "/v1/admin/audit",
        list_audit,
        "List the audit: who did what, when, from where",
        {200: Listing[AuditView]},
        tag="Audit",
        access=Access.ADMIN,
        query=AuditQuery,
    )
]
