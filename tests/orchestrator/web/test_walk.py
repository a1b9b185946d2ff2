"""Every route of the table against the same few questions. A new route fails here until somebody has said how it is
guarded, and what it answers to whom.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from orchestrator.web.api.openapi import build
from orchestrator.web.app import ROUTES, create_app
from orchestrator.web.http.auth import Access
from orchestrator.web.http.middleware import SECURITY_HEADERS
from orchestrator.web.http.routing import Route
from tests.orchestrator.web.conftest import JOB, Api
from tests.orchestrator.web.route_paths import path_of

#: Routes without a key, and what guards them instead.
OPEN = {
    ("GET", "/healthz"): "says nothing",
    ("GET", "/readyz"): "says which part is down, and no more",
    ("GET", "/metrics"): "a key of its own, where it is set; no series has an account",
    ("GET", "/openapi.json"): "the same for everybody",
    ("GET", "/docs"): "the same for everybody",
    ("GET", "/docs/docs.js"): "the same for everybody",
    ("GET", "/docs/docs.css"): "the same for everybody",
    ("GET", "/"): "leads to the page",
    ("GET", "/v1/artifacts/{id}"): "the address is signed and ends",
}
#: Routes for any key whose path names neither an account nor a thing of one, and what another account sees there.
NARROWED = {
    ("GET", "/v1/jobs"): "an empty list",
    ("GET", "/v1/drafts"): "an empty list",
    ("GET", "/v1/schedules"): "an empty list",
    ("GET", "/v1/pipelines"): "the same for everybody",
    ("POST", "/v1/schedules:preview"): "only computes",
}
GUARDED = [route for route in ROUTES if route.access is not Access.PUBLIC]


def key_of(route: Route) -> tuple[str, str]:
    return route.method, route.path


def test_somebody_has_said_how_each_route_is_guarded() -> None:
    named = {key_of(route) for route in ROUTES if route.access is Access.PUBLIC}
    assert named == set(OPEN)
    unnamed = {
        key_of(route)
        for route in ROUTES
        if route.access is Access.OWN and not set(route.template.parameters) - {"lane"}
    }
    assert unnamed == set(NARROWED)


def test_the_document_says_the_same_of_each_route() -> None:
    document = build(ROUTES, "1")
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {key_of(route) for route in ROUTES if route.tag}
    for route in ROUTES:
        if route.tag:
            operation = document["paths"][route.path][route.method.lower()]
            assert bool(operation["security"]) is (route.access is not Access.PUBLIC), route
            assert operation.get("x-access") == {Access.OWN: "own", Access.ADMIN: "admin"}.get(route.access), route


@pytest.fixture
def useless_keys(api: Api, make_key: Callable[..., str]) -> dict[str, str | None]:
    """Keys that open nothing any more, or never did."""
    deleted = api.post("/v1/accounts/acme/keys").json()
    assert api.delete(f"/v1/accounts/acme/keys/{deleted['id']}").status_code == 204
    together = api.post("/v1/accounts/gone/keys").json()
    assert api.delete("/v1/accounts/gone/keys").status_code == 204
    return {
        "none": None,
        "expired": make_key("acme", expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        "expired admin": make_key("acme", expires_at=datetime.now(UTC) - timedelta(days=1)),
        "deleted": deleted["key"],
        "deleted with all": together["key"],
        "never made": deleted["key"][:-1] + ("a" if deleted["key"][-1] != "a" else "b"),
    }


def test_no_route_opens_to_a_key_that_is_none(api: Api, useless_keys: dict[str, str | None]) -> None:
    api.post("/v1/accounts/acme/jobs", JOB)
    for name, key in useless_keys.items():
        caller = api.with_key(key)
        for route in GUARDED:
            answer = caller(route.method, path_of(route), {"colour": "red"})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (name, route)
            assert "acme" not in answer.text, (name, route)


def test_what_names_nobody_shows_nothing_of_others(api: Api, make_key: Callable[..., str]) -> None:
    api.post("/v1/accounts/acme/jobs", JOB)
    schedule = {"name": "s", "pipeline": "sample", "every": 60, "input": JOB["input"]}
    assert api.post("/v1/accounts/acme/schedules", schedule).status_code == 201
    other = api.with_key(make_key("other"))
    for (method, path), shown in NARROWED.items():
        if method == "GET":
            answer = other.get(path)
            assert answer.status_code == 200
            assert "acme" not in answer.text
            assert shown != "an empty list" or answer.json()["items"] == []


def test_every_answer_is_safe_in_a_browser(api: Api, make_key: Callable[..., str]) -> None:
    """Good ones and errors, with a key and without; a page may say less strictly what it loads, never nothing."""
    other = api.with_key(make_key("other"))
    for route in ROUTES:
        method = "HEAD" if route.media_type == "text/event-stream" else route.method
        for caller in (api, other, api.with_key(None)):
            headers = caller(method, path_of(route, account="nobody")).headers
            for name in SECURITY_HEADERS:
                assert headers.get(name), (route, name)
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
    for path in ("/nothing", "/v1/nothing", "/v1/accounts/%FF", "/dashboard"):
        assert api.get(path).headers["x-frame-options"] == "DENY"


def test_every_body_has_one_type_and_a_bound(settings_of: Callable[..., Settings], migrated_url: str) -> None:
    runtime = Runtime(settings_of(migrated_url, max_body_bytes=2048, max_batch_bytes=4096))
    with TestClient(create_app(runtime), raise_server_exceptions=False) as client:
        api = Api(client, "admin-key-for-the-web-tests-0001")
        ids = things(api)
        for route in ROUTES:
            if route.body_model is None:
                continue
            path = path_of(route, id=ids.get(route.path.split("/")[2].partition(":")[0], "nothing"))
            if api(route.method, path, content=b"{", headers=JSON).status_code == 404:
                continue  # there is no such thing to send a body for, and nothing of it is read
            size = 4097 if route.body_limit == "max_batch_bytes" else 2049
            assert status(api, route, path, b" " * size, "text/plain") == 413, route
            assert status(api, route, path, pieces(size), "application/json") == 413, route
            assert status(api, route, path, b"a=b", "application/x-www-form-urlencoded") == 415, route
            assert status(api, route, path, b"{", "application/json") == 400, route
            assert status(api, route, path, b'{"colour": "red"}', "application/json") == 422, route
    runtime.close()


JSON = {"Content-Type": "application/json"}


def things(api: Api) -> dict[str, str]:
    """One thing of each kind that a path can lead to."""
    schedule = {"name": "s", "pipeline": "sample", "every": 60, "input": JOB["input"]}
    return {
        "jobs": api.post("/v1/accounts/acme/jobs", JOB).json()["id"],
        "schedules": api.post("/v1/accounts/acme/schedules", schedule).json()["id"],
    }


def pieces(size: int) -> Any:
    """A body that does not say how long it is."""
    for _ in range(size // 512 + 1):
        yield b" " * 512


def status(api: Api, route: Route, path: str, content: Any, content_type: str) -> int:
    answer = api(route.method, path, content=content, headers={"Content-Type": content_type})
    return int(answer.status_code)
