"""The route table, from which the router and `/openapi.json` are made.

A call is checked in this order, and the first failure is the answer: 401 the key, 404 and 403 its access, 413 the
body's size, 415 its type, 400 its JSON, 422 all faults of path, query and body together.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from ...json_text import to_json
from .auth import Access, Caller
from .models import Nothing, Query
from .paths import PathTable, SplitPath, Template

if TYPE_CHECKING:
    from .service import Service

Q = TypeVar("Q", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)

#: Codes that every route with a key can answer.
_COMMON_CODES = ("unauthenticated", "rate_limited", "unavailable")


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's result: a status of the route's `answers`, and plain data."""

    data: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Details for the audit, such as `before` and `after`, without secrets.
    audit: Mapping[str, Any] | None = None

    def response(self) -> Response:
        if self.status == 204:
            return Response(status_code=204, headers=self.headers)
        return Response(to_json(self.data), self.status, self.headers, "application/json")


def _keep_nothing(connection: Connection, reply: Reply) -> None:
    """For calls without an idempotency key."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """A call that passed every check."""

    service: Service
    caller: Caller
    params: Mapping[str, str]
    query: Q
    body: B
    request: Request
    #: With an idempotency key: the seed of the new jobs' ids, which is the same at a repeat.
    seed: str | None = None
    #: Stores the answer for the idempotency key, if there is one, in the transaction that makes the change.
    keep: Callable[[Connection, Reply], None] = _keep_nothing

    @property
    def account(self) -> str:
        """The account of the path."""
        return self.params["account"]

    @property
    def owner(self) -> str | None:
        """The account whose rows the caller may see; None for all."""
        return self.caller.account


Endpoint = Callable[[Call[Any, Any]], Reply | Response | Awaitable[Reply | Response]]


@dataclass(frozen=True)
class Route:
    """One route. `answers` maps each successful status to its body's model (None: no body, or not JSON)."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    answers: Mapping[int, Any]
    tag: str
    access: Access
    body: type[BaseModel] | None = None
    #: False: the body may be left out.
    body_required: bool = True
    #: The setting that bounds the body, in bytes.
    body_limit: str = "max_body_bytes"
    query: type[Query] = Query
    #: Error codes of this call besides those that follow from the other fields.
    codes: tuple[str, ...] = ()
    #: Takes an `Idempotency-Key`.
    creates: bool = False
    #: The answer has a secret, so it is stored sealed for the idempotency key.
    secret: bool = False
    #: The media type of a successful answer that is not JSON.
    media_type: str = "application/json"
    #: Raises `NotFound` if the resource of the path does not exist, before the body is read.
    exists: Callable[[Call[Any, Any]], None] | None = None
    description: str = ""
    headers: tuple[str, ...] = ()
    #: Not counted by the rate limits: monitoring must not be refused, and all streams reconnect at once after
    #: a restart of a control plane.
    unlimited: bool = False
    #: False: a POST that only computes, so it has no audit row.
    changes: bool = True

    @property
    def template(self) -> Template:
        return Template.parse(self.path)

    @property
    def operation_id(self) -> str:
        """Such as ``get_v1_jobs_id``: stable, because it follows from method and path alone."""
        return "_".join([self.method.lower(), *re.findall(r"[a-z0-9]+", self.path)])

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.endpoint)

    @property
    def audited(self) -> bool:
        """True for every change except new jobs, which are their own record."""
        if self.method == "GET" or self.access is Access.PUBLIC or not self.changes:
            return False
        return not (self.creates and self.tag == "Jobs")

    @property
    def body_model(self) -> type[BaseModel] | None:
        """The body's model; a POST without fields has one that refuses any field."""
        return self.body or (Nothing if self.method == "POST" and self.access is not Access.PUBLIC else None)

    @property
    def needs_body(self) -> bool:
        return self.body is not None and self.body_required

    def error_codes(self) -> list[str]:
        """Every error code of the call, for the OpenAPI document and the tests."""
        codes = set(self.codes)
        parameters = self.template.parameters
        if self.access is Access.PUBLIC:
            return sorted(codes if self.unlimited else codes | {"rate_limited"})
        codes.update(_COMMON_CODES)
        codes.add("invalid_request")
        if self.access is Access.ADMIN:
            codes.add("forbidden")
        if parameters:
            codes.add("not_found")
        if self.method in ("POST", "PUT") and self.path.startswith("/v1/accounts/{account}"):
            codes.add("account_busy")  # while it is being erased
        if self.body_model is not None:
            codes.update(("malformed_json", "too_large", "unsupported_media_type"))
        if self.creates:
            codes.update(("idempotency_conflict", "idempotency_in_progress"))
        return sorted(codes)


class RouteTable:
    """All routes, found by path and method."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            methods = by_path.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"two routes are {route.method} {route.path}")
            methods[route.method] = route
        self._paths = PathTable((Template.parse(path), methods) for path, methods in by_path.items())

    def find(self, path: SplitPath) -> tuple[Mapping[str, Route], dict[str, str]] | None:
        """The routes of a path by method, and the path's parameters."""
        return self._paths.find(path)


def allowed_methods(routes: Mapping[str, Route]) -> str:
    """For the `Allow` header."""
    methods = set(routes) | {"OPTIONS"}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))
