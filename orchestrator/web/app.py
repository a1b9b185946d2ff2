"""The control plane's HTTP application: all routes in one table, and what every answer needs.

    uvicorn.run(create_app(runtime), host=…, port=…)

The application starts no loops: `onelane serve` does, so that the application can run without them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from ..json_text import to_json
from ..version import package_version
from .api import (
    accounts,
    admin,
    alerts,
    artifacts,
    audit,
    check,
    dead_letters,
    drafts,
    erasures,
    events,
    exports,
    jobs,
    keys,
    lanes,
    operations,
    publications,
    queues,
    reconcile,
    schedules,
    targets,
    usage,
    webhooks,
)
from .api.openapi import build
from .http.calls import Api
from .http.middleware import SECURITY_HEADERS, EveryAnswer
from .http.problems import CODES_BY_STATUS, Problem, problem_of, problem_response
from .http.routing import Route, RouteTable
from .http.service import Service

if TYPE_CHECKING:
    from ..runtime import Runtime

log = logging.getLogger(__name__)

ROUTES: Sequence[Route] = (
    *jobs.ROUTES,
    *events.ROUTES,
    *artifacts.ROUTES,
    *webhooks.ROUTES,
    *drafts.ROUTES,
    *schedules.ROUTES,
    *accounts.ROUTES,
    *usage.ROUTES,
    *erasures.ROUTES,
    *exports.ROUTES,
    *targets.ROUTES,
    *keys.ROUTES,
    *queues.ROUTES,
    *lanes.ROUTES,
    *dead_letters.ROUTES,
    *publications.ROUTES,
    *check.ROUTES,
    *reconcile.ROUTES,
    *admin.ROUTES,
    *alerts.ROUTES,
    *audit.ROUTES,
    *operations.ROUTES,
)


def create_app(runtime: Runtime, *, extra_routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The application over a runtime, which the caller closes.

    Args:
        runtime: the parts of the service.
        extra_routes: Starlette routes that come before the API's, such as the dashboard's.
    """
    table = RouteTable(ROUTES)
    service = Service(runtime, _openapi_document)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.in_thread(service.heartbeat.start)
        yield
        await service.in_thread(service.heartbeat.stop)
        service.close()

    return Starlette(
        routes=[*extra_routes, _ApiRoute(Api(table, service))],
        middleware=[Middleware(EveryAnswer)],
        exception_handlers={HTTPException: _on_http_exception, Exception: _on_exception},
        lifespan=lifespan,
    )


@cache
def _openapi_document() -> bytes:
    return to_json(build(ROUTES, package_version()))


class _ApiRoute(BaseRoute):
    """Gives the API every request that no earlier route took, unknown paths too."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL, {}) if scope["type"] == "http" else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._api(scope, receive, send)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors, from routes that are not in the table."""
    assert isinstance(error, HTTPException), "Starlette calls the handler for this class only"
    code = CODES_BY_STATUS.get(error.status_code, "invalid_request")
    return problem_response(Problem(code, str(error.detail), headers=error.headers))


async def _on_exception(request: Request, error: Exception) -> Response:
    """Starlette calls this outside of every middleware, so the answer sets its own headers."""
    request_id = request.scope.get("onelane.request_id", "")
    log.error("request %s failed", request_id, exc_info=error)
    response = problem_response(problem_of(error))
    response.headers.update({**SECURITY_HEADERS, "X-Request-Id": request_id})
    return response
