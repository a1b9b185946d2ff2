"""`Idempotency-Key`: the first successful answer is kept for a day and sent again.

Invariants
- One key, method, path and caller stand for one body; bodies are compared as parsed JSON.
- Only successful answers are kept: after an error the same key starts anew.
- If a call took effect but its answer was lost (its process died, or its commit's answer did not arrive), the next call
  with the key finds what it made. Jobs get the same ids, and the answer shows their current state; everything else is
  made in one transaction with the kept answer.
- An answer with a secret is kept sealed, so that the database never holds a usable key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import re
from dataclasses import replace
from typing import Any, cast

from sqlalchemy import Connection
from starlette.responses import Response

from tenants.database.models import derived_id
from tenants.database.transactions import CommitUnknown
from tenants.errors import ClaimLost, Fault, Unavailable
from tenants.store import idempotency as store

from ...json_text import to_json
from .audit_log import note
from .problems import Problem, invalid
from .routing import Call, Reply, Route

log = logging.getLogger(__name__)

_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
REPLAYED = {"Idempotency-Replayed": "true"}


def answer_once(key: str, route: Route, call: Call[Any, Any], body: Any) -> Response:
    """Run the endpoint, unless this key has an answer already.

    Raises:
        Problem: 409, the key came with another body, or its first call still runs; 422, it is malformed.
    """
    if not _KEY.fullmatch(key):
        raise invalid([Fault(("Idempotency-Key",), "it must be 1 to 255 visible ASCII characters")])
    scope = _scope(key, route, call)
    fingerprint = _digest(_canonical(body))
    database = call.service.database
    account = call.params.get("account", call.caller.account)
    holder = call.service.heartbeat.id
    claim = database.write(lambda connection: store.claim(connection, scope, fingerprint, account, holder))
    if claim.kind == "done":
        return _replay(call, scope, cast("int", claim.status), cast("dict[str, Any]", claim.response))
    if claim.kind == "conflict":
        raise Problem("idempotency_conflict", f"the idempotency key {key!r} was used with another body")
    if claim.kind == "running":
        raise Problem(
            "idempotency_in_progress",
            f"the first call with the idempotency key {key!r} still runs; ask again",
            headers={"Retry-After": str(math.ceil(claim.retry_after))},
        )
    was_kept = False

    def keep(connection: Connection, reply: Reply) -> None:
        nonlocal was_kept
        _finish(connection, route, call, scope, claim.token, reply)
        was_kept = True

    call = replace(call, seed=derived_id(claim.seed, fingerprint), keep=keep)
    try:
        reply = cast("Reply", route.endpoint(call))
    except BaseException as error:
        _release(call, scope, claim.token, error)
        raise
    if route.audited:
        note(route, call, reply)
    if was_kept:
        return reply.response()
    try:
        database.write(lambda connection: _finish(connection, route, call, scope, claim.token, reply))
    except (Unavailable, ClaimLost) as error:
        # The call took effect, so it is answered; a repeat waits, and then finds what was made.
        log.warning("the answer to an idempotency key is not kept: %s", error)
    return reply.response()


def is_known(key: str, route: Route, call: Call[Any, Any]) -> bool:
    """Whether the key was used for this call: then its first answer applies, whatever has changed since."""
    scope = _scope(key, route, call)
    return call.service.database.read(lambda connection: store.is_known(connection, scope))


def _scope(key: str, route: Route, call: Call[Any, Any]) -> str:
    """The scope in which a key is unique.

    The path is built from the decoded parameters: one name can be encoded in several ways (`%61u2` is `au2`), which
    must not be several calls.
    """
    return _digest([key, route.method, route.template.fill(call.params), call.caller.key_id])


def _finish(connection: Connection, route: Route, call: Call[Any, Any], scope: str, token: str, reply: Reply) -> None:
    shown = reply.data.get("account") if isinstance(reply.data, dict) else None
    store.finish(connection, scope, reply.status, _kept(route, call, scope, reply), shown, token)


def _release(call: Call[Any, Any], scope: str, token: str, error: BaseException) -> None:
    after = store.abandon if isinstance(error, CommitUnknown) else store.forget
    try:
        call.service.database.write(lambda connection: after(connection, scope, token))
    except Unavailable as failure:  # the call's own error matters more; the claim expires by itself
        log.warning("an idempotency key stays taken for %d s: %s", store.ABANDONED_SECONDS, failure)


def _kept(route: Route, call: Call[Any, Any], scope: str, reply: Reply) -> dict[str, Any]:
    text = to_json(reply.data).decode()
    headers = dict(reply.headers)
    if not route.secret:
        return {"headers": headers, "body": text}
    sealed = call.service.sealer.seal(text, account=scope, purpose=store.PURPOSE)
    return {"headers": headers, "sealed": base64.b64encode(sealed).decode()}


def _replay(call: Call[Any, Any], scope: str, status: int, kept: dict[str, Any]) -> Response:
    if "sealed" in kept:
        sealed = base64.b64decode(kept["sealed"])
        text = call.service.sealer.open(sealed, account=scope, purpose=store.PURPOSE)
    else:
        text = kept["body"]
    return Response(text, status, {**kept["headers"], **REPLAYED}, "application/json")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """The same form for equal JSON: key order does not matter, nor 5 or 5.0."""
    if isinstance(value, dict):
        return {name: _canonical(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
