"""A call from its path to its answer: the checks in order, then the endpoint.

Invariants
- No part of a body is read before the caller is authenticated and authorized.
- The event loop parses only small input. Larger input is parsed on a few threads of their own, so that neither the
  loop nor the store's threads wait for it, and within a budget of CPU.
- Whatever an endpoint raises becomes a problem document; unexpected errors are logged with the request's id.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import Any, cast

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tenants.errors import Fault, NotFound

from ...heap import collector_paused
from .audit_log import note
from .auth import Access, Caller
from .bodies import check_json_type, decode_json, read_body
from .cpu_budget import CpuBudget, CpuBudgetExceeded
from .idempotency import answer_once, is_known
from .json_parser import TooManyValues
from .models import Nothing, Query
from .paths import SplitPath, UndecodablePath, split_path
from .problems import Problem, invalid, problem_of, problem_response
from .routing import Call, Reply, Route, RouteTable, allowed_methods
from .service import Service
from .validation import validate

log = logging.getLogger(__name__)

_NO_QUERY, _NO_BODY = Query(), Nothing()
#: Bytes of body and query above which a thread parses them; the slowest input of this size takes about a
#: millisecond (`tests/benchmarks/request_input.py`).
_LARGE_INPUT = 2 * 1024


class Api:
    """The API as an ASGI application."""

    def __init__(self, table: RouteTable, service: Service) -> None:
        self._table = table
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Exception as error:
            problem = problem_of(error)
            if problem.code == "internal":
                log.exception("request %s failed", scope.get("onelane.request_id", ""))
            elif problem.code == "unavailable":
                log.warning("request %s: %s", scope.get("onelane.request_id", ""), error)
            response = problem_response(problem)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        raw = _raw_path(request.scope)
        try:
            path = split_path(raw)
        except UndecodablePath as error:
            await self._caller(request, raw)
            raise invalid([Fault(("path",), str(error).removeprefix("path: "))]) from None
        found = self._table.find(path) if path is not None else None
        if found is None:
            await self._caller(request, raw)
            raise _no_such_path(path)
        routes, params = found
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed_methods(routes)})
        route = routes.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            await self._caller(request, raw)
            raise Problem(
                "method_not_allowed",
                f"{request.method} does not apply here; {allowed_methods(routes)} do",
                headers={"Allow": allowed_methods(routes)},
            )
        limits = self._service.limits
        if route.access is Access.PUBLIC:
            caller = Caller("", "account", None)
            if not route.unlimited:
                limits.check_address(address_of(request))
        else:
            caller = await self._authenticated(request)
            if not route.unlimited:
                limits.check_key(caller.key_id)
            _authorize(route, caller, params)
        return await self._checked_call(request, route, caller, params)

    async def _checked_call(self, request: Request, route: Route, caller: Caller, params: dict[str, str]) -> Response:
        key = request.headers.get("idempotency-key") if route.creates else None
        if route.exists is not None and route.body_model is not None:
            probe = Call(self._service, caller, params, _NO_QUERY, _NO_BODY, request)
            await self._service.in_thread(lambda: _check_exists(route, probe, key))
        text = await self._text(request, route)

        query_string: bytes = request.scope["query_string"]
        budget_seconds = self._service.settings.max_request_cpu_seconds

        def checked() -> tuple[Any, Query, BaseModel]:
            budget = CpuBudget(budget_seconds)
            try:
                body = None if text is None else decode_json(text, budget)
                budget.check()
                query, content = validate(route, params, query_string, body, text is not None)
                budget.check()
            except (CpuBudgetExceeded, TooManyValues) as error:
                raise Problem("too_large", str(error)) from None
            return body, query, content

        def checked_in_thread() -> tuple[Any, Query, BaseModel]:
            with collector_paused():
                return checked()

        large = len(text or b"") + len(query_string) > _LARGE_INPUT
        body, query, content = await self._service.in_parser_thread(checked_in_thread) if large else checked()
        call: Call[Any, Any] = Call(self._service, caller, params, query, content, request)
        if key is not None:
            return await self._service.in_thread(lambda: answer_once(key, route, call, body))
        if route.is_async:
            return _response(await cast("Awaitable[Reply | Response]", route.endpoint(call)))
        return await self._service.in_thread(lambda: _run(route, call))

    async def _text(self, request: Request, route: Route) -> bytes | None:
        """The body, whose type is JSON; None where there is none and none is needed."""
        if route.body_model is None:
            return None
        body = await read_body(request, getattr(self._service.settings, route.body_limit))
        if not body and not route.needs_body:
            return None
        check_json_type(request)
        return body

    async def _caller(self, request: Request, raw: bytes) -> None:
        """Below /v1 an unknown path needs a key too, and counts as a call of that key."""
        if raw == b"/v1" or raw.startswith((b"/v1/", b"/v1:")):
            self._service.limits.check_key((await self._authenticated(request)).key_id)

    async def _authenticated(self, request: Request) -> Caller:
        """The caller, unless its address has sent too many wrong keys.

        Raises:
            Problem: 401 or 429.
        """
        authorization, address = request.headers.get("authorization"), address_of(request)
        authenticator, limits = self._service.authenticator, self._service.limits
        limits.check_guesses(address)
        admin = authenticator.admin(authorization)
        if admin is not None:
            return admin

        def stored() -> Caller:
            try:
                return authenticator.stored(authorization)
            except Problem:
                limits.count_guess(address)
                raise

        return await self._service.in_thread(stored)


def address_of(request: Request) -> str | None:
    """The client's address; behind a trusted proxy, the one that the proxy names."""
    return request.client.host if request.client is not None else None


def _authorize(route: Route, caller: Caller, params: Mapping[str, str]) -> None:
    if route.access is Access.ADMIN and not caller.is_admin:
        raise Problem("forbidden", "this call needs a key with scope admin")
    if not caller.is_admin and "account" in params and params["account"] != caller.account:
        raise Problem("not_found", "there is no such account, or it is not yours")
    _check_names(params)


def _check_exists(route: Route, probe: Call[Any, Any], key: str | None) -> None:
    """Refuse a call for something that does not exist, unless its idempotency key was already answered."""
    assert route.exists is not None
    try:
        route.exists(probe)
    except NotFound:
        if key is None or not is_known(key, route, probe):
            raise


def _check_names(params: Mapping[str, str]) -> None:
    """Refuse U+0000: no id has it, and no database takes it as a parameter. Validation checks an account's name.

    Raises:
        Problem: 404.
    """
    if any("\x00" in value for name, value in params.items() if name != "account"):
        raise Problem("not_found", "not found: no id has the character U+0000")


def _run(route: Route, call: Call[Any, Any]) -> Response:
    reply = cast("Reply | Response", route.endpoint(call))
    if route.audited:
        note(route, call, reply)
    return _response(reply)


def _response(reply: Reply | Response) -> Response:
    return reply.response() if isinstance(reply, Reply) else reply


def _raw_path(scope: Scope) -> bytes:
    """The path, not decoded, without the prefix under which a server mounts the application."""
    raw: bytes = scope["raw_path"].partition(b"?")[0]
    root: bytes = scope.get("root_path", "").rstrip("/").encode()
    return raw[len(root) :] if root and raw.startswith(root + b"/") else raw


def _no_such_path(path: SplitPath | None) -> Problem:
    if path is not None and path.verb is not None:
        return Problem("not_found", "there is no such verb or path; a ':' that belongs to a name must be sent as %3A")
    return Problem("not_found", "there is no such path")
