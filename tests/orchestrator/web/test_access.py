"""Who may do what: every route with no key, another account's key, an expired and a revoked key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.runtime import Runtime
from orchestrator.web.app import ROUTES
from orchestrator.web.http.auth import Access
from tenants.store.accounts import keys
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, ON_BOTH, Api
from tests.orchestrator.web.route_paths import path_of

GUARDED = [route for route in ROUTES if route.access is not Access.PUBLIC]


def test_without_a_key_every_route_is_401(api: Api) -> None:
    for route in GUARDED:
        answer = api.with_key(None)(route.method, path_of(route), {"colour": "red"})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), route
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_with_an_expired_or_unknown_key_every_route_is_401(api: Api, make_key: Callable[..., str]) -> None:
    expired = make_key("acme", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    for key in (expired, keys.make_key()):
        for route in GUARDED:
            answer = api.with_key(key)(route.method, path_of(route), {"colour": "red"})
            assert answer.status_code == 401, route


def test_with_an_accounts_key_every_admin_route_is_403(api: Api, make_key: Callable[..., str]) -> None:
    own = api.with_key(make_key("acme"))
    for route in GUARDED:
        if route.access is Access.ADMIN:
            answer = own(route.method, path_of(route), {"colour": "red"})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), route


def test_with_anothers_key_every_account_path_is_404(api: Api, make_key: Callable[..., str]) -> None:
    api.post("/v1/accounts/acme/jobs", JOB)
    other = api.with_key(make_key("other"))
    for route in GUARDED:
        if route.access is Access.OWN and "{account}" in route.path:
            answer = other(route.method, path_of(route), {"colour": "red"})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), route


def test_with_anothers_key_every_id_is_404(api: Api, make_key: Callable[..., str], owned_ids: dict[str, str]) -> None:
    own, other = api.with_key(make_key("acme")), api.with_key(make_key("other"))
    for route in GUARDED:
        if route.access is not Access.OWN or "{id}" not in route.path:
            continue
        path = path_of(route, id=owned_ids[route.path.split("/")[2].partition(":")[0]])
        body = {"colour": "red"} if route.body else None
        answer = other(route.method, path, body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), route
        # A stream does not end by itself; its HEAD is judged by the same rules.
        method = "HEAD" if route.media_type == "text/event-stream" else route.method
        assert own(method, path, body).status_code != 404, "the owner is let through to what is judged next"


@pytest.fixture
def owned_ids(api: Api, runtime: Runtime, bench: Any) -> dict[str, str]:
    """One thing of each kind that `acme` owns, by the word in its path."""
    from tenants.store.publishing import publications

    job = api.post("/v1/accounts/acme/jobs", JOB).json()
    owned = bench.start(job)
    draft = bench.write(lambda c: publications.create_draft(c, owned, title="t", body="b", tags=[]))
    schedule = api.post(
        "/v1/accounts/acme/schedules", {"name": "s", "pipeline": "sample", "every": 60, "input": JOB["input"]}
    )
    return {"jobs": job["id"], "drafts": draft["id"], "schedules": schedule.json()["id"]}


def test_lists_are_narrowed_to_the_caller(api: Api, make_key: Callable[..., str], owned_ids: dict[str, str]) -> None:
    own, other = api.with_key(make_key("acme")), api.with_key(make_key("other"))

    for path in ("/v1/jobs", "/v1/drafts", "/v1/schedules"):
        assert len(own.get(path).json()["items"]) == 1
        assert len(own.get(f"{path}?account=acme").json()["items"]) == 1
        assert other.get(path).json()["items"] == []
        assert other.get(f"{path}?account=acme").json() == {"items": [], "next_cursor": None}
        assert len(api.get(f"{path}?account=acme").json()["items"]) == 1


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer nope", f"Token {ADMIN_KEY}", f"Bearer {ADMIN_KEY}x", "é"]
)
def test_what_is_no_key_is_401(api: Api, header: str) -> None:
    answer = api.with_key(None).get("/v1/jobs", headers={"Authorization": header.encode()})
    assert answer.status_code == 401


def test_below_v1_even_a_path_that_leads_nowhere_asks_for_the_key(api: Api) -> None:
    nobody = api.with_key(None)
    assert nobody.get("/v1/nothing").status_code == 401
    assert nobody.delete("/v1/jobs").status_code == 401
    assert nobody.get("/v1/accounts/%FF").status_code == 401
    assert nobody.get("/nothing").status_code == 404


@ON_BOTH
def test_keys_are_made_listed_used_and_ended(api: Api, runtime: Runtime) -> None:
    made = api.post("/v1/accounts/acme/keys", {"name": "backend"})
    assert made.status_code == 201
    key = made.json()["key"]
    own = api.with_key(key)
    assert own.get("/v1/accounts/acme").json()["account"] == "acme"

    listed = api.get("/v1/accounts/acme/keys").json()["items"]
    assert [each["name"] for each in listed] == ["backend"]
    assert "key" not in listed[0]
    assert listed[0]["last_used_at"] is not None
    assert key not in str(runtime.database.read(lambda c: c.execute(select(keys.keys)).mappings().all()))

    assert api.delete(f"/v1/accounts/other/keys/{listed[0]['id']}").status_code == 404
    assert api.delete(f"/v1/accounts/acme/keys/{listed[0]['id']}").status_code == 204
    assert own.get("/v1/accounts/acme").status_code == 401
    assert api.get("/v1/accounts/acme/keys").json()["items"] == []


def test_all_keys_of_an_account_end_together(api: Api) -> None:
    one, two = (api.post("/v1/accounts/acme/keys").json() for _ in range(2))
    assert api.delete(f"/v1/accounts/acme/keys?id={one['id']}").status_code == 204
    assert api.with_key(one["key"]).get("/v1/jobs").status_code == 401
    assert api.with_key(two["key"]).get("/v1/jobs").status_code == 200
    assert api.delete("/v1/accounts/acme/keys").status_code == 204
    assert api.with_key(two["key"]).get("/v1/jobs").status_code == 401
    assert api.delete("/v1/accounts/acme/keys").status_code == 404


def test_an_admin_key_from_the_database_is_an_admin(api: Api, runtime: Runtime) -> None:
    key = keys.make_key()
    runtime.database.write(lambda c: keys.create(c, key, scope="admin", account=None))
    assert api.with_key(key).get("/v1/accounts").status_code == 200
