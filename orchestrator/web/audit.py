"""The audit over HTTP: every call that changed something leaves a row; an admin reads them.

A refused call leaves none: nothing was done. The row is written right after the change; should the database fail in
between, the log has it.
"""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import unquote

from starlette.responses import Response

from tenants.errors import Unavailable
from tenants.store import audit as store

from ..json_text import to_json
from .auth import Access
from .models.admin import AuditQuery, AuditView
from .models.base import Listing
from .routing import Call, Reply, Route

log = logging.getLogger(__name__)


def note(route: Route, call: Call[Any, Any], reply: Reply | Response) -> None:
    """Keep who did what to what, from where."""
    caller, client = call.caller, call.request.client
    actor = f"{caller.scope}:{caller.key_id}" if caller.account is None else f"account:{caller.account}:{caller.key_id}"
    action = f"{route.method} {route.path}"
    target = unquote(call.request.scope["raw_path"].decode("latin-1"), errors="replace")
    # As JSON has it: a time is text there.
    details = json.loads(to_json(reply.audit)) if isinstance(reply, Reply) and reply.audit is not None else None
    address = client.host if client is not None else ""
    try:
        call.service.database.write(
            lambda connection: store.record(
                connection, actor=actor, address=address, action=action, target=target, details=details
            )
        )
    except Unavailable as error:
        log.error(
            "%s by %s from %s on %s was done, but the audit has no row: %s", action, actor, address, target, error
        )


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
