"""Liveness, readiness, metrics, and the API's description as JSON and as a page."""

from __future__ import annotations

import hashlib
import hmac
import logging
from functools import cache, partial
from importlib import resources
from typing import Any, Literal

from dramatiq.errors import BrokerConnectionError
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from tenants.database.trouble import sentence
from tenants.errors import Unavailable
from tenants.queues import QueueError, ServerRefuses, TenantBroker
from tenants.queues.notices import warn
from tenants.store import workers

from ...metrics import REGISTRY
from ..http.auth import Access
from ..http.models import Answer
from ..http.problems import Problem
from ..http.routing import Call, Reply, Route

log = logging.getLogger(__name__)

Part = Literal["ok", "degraded", "down", "none", "unknown"]


class Alive(Answer):
    """The process runs."""

    status: Literal["ok"]


class Parts(Answer):
    """The state of the parts that the service needs."""

    database: Part
    redis: Part
    workers: Part = Field(description="`none`: jobs are accepted, but no worker runs them.")


class Ready(Answer):
    """Whether jobs are accepted, and what is wrong where something is."""

    status: Literal["ok", "degraded", "down"]
    parts: Parts
    reasons: dict[str, str] = Field(
        default_factory=dict, description="Why a part is `degraded`, as `word: sentence`, such as `disk_full: …`."
    )


def healthz(call: Call[Any, Any]) -> Reply:
    return Reply({"status": "ok"})


def readyz(call: Call[Any, Any]) -> Reply:
    """503 only when the database is down: without Redis or workers jobs are still accepted, and run later."""
    parts: dict[str, Part] = {"database": "ok", "redis": "ok", "workers": "unknown"}
    reasons: dict[str, str] = {}
    try:
        parts["workers"] = "ok" if call.service.database.read(workers.live) else "none"
    except Unavailable as error:
        log.warning("the database is down: %s", error)
        parts["database"] = "down"
    else:
        reason = call.service.database.not_writable
        if reason is not None:
            parts["database"], reasons["database"] = "degraded", f"{reason}: {sentence(reason)}"
    parts["redis"], why = _redis(call.service.broker)
    if why:
        reasons["redis"] = why
    if parts["database"] == "down":
        return Reply({"status": "down", "parts": parts, "reasons": reasons}, 503, {"Retry-After": "1"})
    is_well = all(state == "ok" for state in parts.values())
    return Reply({"status": "ok" if is_well else "degraded", "parts": parts, "reasons": reasons})


def _redis(broker: TenantBroker) -> tuple[Part, str]:
    """The state of Redis, and the reasons if it is degraded."""
    try:
        broker.check_server()
        faults = broker.check_health().faults
    except ServerRefuses as error:
        faults = {error.reason: error.meaning}
    except (BrokerConnectionError, QueueError) as error:
        warn(log, error, "Redis is down: %s", error)
        return "down", ""
    return ("degraded" if faults else "ok"), "; ".join(f"{reason}: {meaning}" for reason, meaning in faults.items())


def metrics(call: Call[Any, Any]) -> Response:
    key = call.service.settings.metrics_key
    if key is not None:
        address = call.request.client.host if call.request.client is not None else None
        call.service.limits.check_guesses(address)
        given = call.request.headers.get("authorization", "").partition(" ")[2].strip()
        digests = [hashlib.sha256(each.encode()).digest() for each in (given, key.get_secret_value())]
        if not hmac.compare_digest(*digests) and call.service.authenticator.admin(f"Bearer {given or '-'}") is None:
            if given:
                call.service.limits.count_guess(address)
            raise Problem("unauthenticated", "the metrics need their key, as 'Authorization: Bearer <key>'")
    return Response(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


#: The page runs its own script alone, and connects to this server alone.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
_FILES = {
    "docs.html": "text/html; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
}


@cache
def _static(name: str) -> bytes:
    return (resources.files(__package__) / "static" / name).read_bytes()


def _file(name: str) -> Response:
    return Response(_static(name), headers={"Content-Type": _FILES[name], **PAGE_HEADERS})


def docs(call: Call[Any, Any]) -> Response:
    return _file("docs.html")


def docs_script(call: Call[Any, Any]) -> Response:
    return _file("docs.js")


def docs_style(call: Call[Any, Any]) -> Response:
    return _file("docs.css")


def openapi(call: Call[Any, Any]) -> Response:
    return Response(call.service.openapi(), headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})


def index(call: Call[Any, Any]) -> Response:
    return RedirectResponse("/docs", status_code=302)


_route = partial(Route, tag="Operations", access=Access.PUBLIC)

ROUTES = [
    _route("GET", "/healthz", healthz, "Liveness: whether the process runs", {200: Alive}, unlimited=True),
    _route(
        "GET",
        "/readyz",
        readyz,
        "Readiness: whether jobs are accepted",
        {200: Ready, 503: Ready},
        unlimited=True,
        description=(
            "`degraded` without Redis or without a worker, or with a Redis that is full, read-only or evicts "
            "keys: jobs are accepted and run later. `reasons` says what is wrong."
        ),
    ),
    _route(
        "GET",
        "/metrics",
        metrics,
        "Metrics for Prometheus",
        {200: None},
        codes=("unauthenticated", "rate_limited"),
        unlimited=True,
        media_type="text/plain",
    ),
    _route("GET", "/openapi.json", openapi, "This description", {200: None}),
    _route("GET", "/docs", docs, "This description as a page", {200: None}, media_type="text/html"),
    _route("GET", "/docs/docs.js", docs_script, "", {200: None}, tag=""),
    _route("GET", "/docs/docs.css", docs_style, "", {200: None}, tag=""),
    _route("GET", "/", index, "", {302: None}, tag=""),
]
