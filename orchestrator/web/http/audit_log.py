"""Writes the audit: a row for each call that changed something.

A refused call leaves no row: nothing was done. The row is written right after the change; if the database fails in
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

from ...json_text import to_json
from .routing import Call, Reply, Route

log = logging.getLogger(__name__)


def note(route: Route, call: Call[Any, Any], reply: Reply | Response) -> None:
    """Record who did what to which resource, and from where."""
    caller, client = call.caller, call.request.client
    actor = f"{caller.scope}:{caller.key_id}" if caller.account is None else f"account:{caller.account}:{caller.key_id}"
    action = f"{route.method} {route.path}"
    target = unquote(call.request.scope["raw_path"].decode("latin-1"), errors="replace")
    # As JSON: times are text.
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
