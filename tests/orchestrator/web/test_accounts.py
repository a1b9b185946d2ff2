"""Accounts, targets and sessions over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.runtime import Runtime
from tenants.database.models import Session
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench

TARGET = {"publisher": "demo", "base_url": "http://127.0.0.1:9999", "options": {"blog": "acme"}}


@ON_BOTH
def test_an_account_shows_its_lanes_limits_and_usage(api: Api, bench: Bench, new_job: Any) -> None:
    assert api.get("/v1/accounts/acme").status_code == 404
    bench.start(new_job())
    new_job()
    new_job(delay=300)

    account = api.get("/v1/accounts/acme").json()

    assert (account["account"], account["status"], account["target"]) == ("acme", "active", None)
    lanes = {lane["lane"]: lane for lane in account["lanes"]}
    assert (lanes["generate"]["waiting"], lanes["generate"]["active"], lanes["generate"]["delayed"]) == (1, 1, 1)
    assert lanes["generate"]["queue"] == "generate_acme"
    assert lanes["generate"]["oldest_wait"] >= 0
    assert lanes["generate"]["last_used_at"] is not None
    assert lanes["publish"]["last_used_at"] is None
    assert account["limits"]["weight"] == 1
    assert account["session"] == {"status": "none", "updated_at": None, "expires_at": None}
    assert account["usage"]["today"]["jobs"] == 3


@ON_BOTH
def test_accounts_are_listed_by_prefix_and_status(api: Api) -> None:
    for name in ("shop-1", "shop-2", "shop_1", "Shop-3", "shoq"):
        api.put(f"/v1/accounts/{name}/target", TARGET)

    def names(query: str) -> list[str]:
        return [each["account"] for each in api.get(f"/v1/accounts?{query}").json()["items"]]

    assert names("q=shop-") == ["shop-1", "shop-2"]
    assert names("q=shop%25") == []
    assert names("status=paused") == []
    assert names("status=active&q=S") == ["Shop-3"]
    first = api.get("/v1/accounts?limit=2").json()
    assert len(first["items"]) == 2
    assert names(f"cursor={first['next_cursor']}") == ["shop-2", "shop_1", "shoq"]


@ON_BOTH
def test_target_is_put_read_and_deleted(api: Api) -> None:
    path = "/v1/accounts/acme/target"
    assert api.get(path).status_code == 404
    assert api.put(path, TARGET).json() == TARGET
    assert api.get(path).json() == TARGET
    assert api.get("/v1/accounts/acme").json()["target"] == TARGET
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.delete(path).status_code == 404


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:9998",
        "http://localhost",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1",
        "http://0x7f000001/",
        "http://2130706433/",
        "ftp://example.org",
        "http://user:secret@example.org",
        "nonsense",
        "http://",
    ],
)
def test_a_target_that_leads_inside_is_unsafe(api: Api, url: str) -> None:
    answer = api.put("/v1/accounts/acme/target", {**TARGET, "base_url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_url")
    assert answer.json()["errors"][0]["loc"] == ["base_url"]
    assert api.get("/v1/accounts/acme").status_code == 404


def test_an_unknown_publisher_and_unknown_fields_are_422(api: Api) -> None:
    answer = api.put("/v1/accounts/acme/target", {**TARGET, "publisher": "nope"})
    assert answer.json()["errors"][0]["loc"] == ["publisher"]
    assert api.put("/v1/accounts/acme/target", {**TARGET, "colour": 1}).json()["errors"][0]["loc"] == ["colour"]
    assert api.put("/v1/accounts/acme/target", {"publisher": "demo"}).json()["errors"][0]["loc"] == ["base_url"]


@ON_BOTH
def test_a_session_is_sealed_and_never_shown(api: Api, runtime: Runtime) -> None:
    path = "/v1/accounts/acme/session"
    assert api.get(path).json()["status"] == "none"
    put = api.put(
        path,
        {
            "credentials": {"username": "alice", "password": "correct horse"},
            "storage_state": {"cookies": [{"name": "sid", "value": "s3cr3t"}], "origins": []},
        },
    )
    assert (put.status_code, put.json()["status"]) == (200, "ready")
    shown = api.get(path).text + api.get("/v1/accounts/acme").text
    rows = str(runtime.database.read(lambda c: c.execute(select(Session.__table__)).mappings().all()))
    for secret in ("correct horse", "s3cr3t", "alice"):
        assert secret not in shown
        assert secret not in rows
    opened = runtime.sessions.load("acme")
    assert opened is not None
    assert opened.credentials == {"username": "alice", "password": "correct horse"}
    assert api.delete(path).status_code == 204
    assert api.get(path).json()["status"] == "none"
    assert api.delete(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, []),
        ({"credentials": {"username": "a"}}, ["credentials", "password"]),
        ({"credentials": {"username": "a", "password": "b", "otp": "c"}}, ["credentials", "otp"]),
        ({"storage_state": []}, ["storage_state"]),
        ({"storage_state": "x"}, ["storage_state"]),
    ],
)
def test_a_wrong_session_is_422_and_says_nothing_of_it(api: Api, body: dict[str, Any], place: list[str]) -> None:
    answer = api.put("/v1/accounts/acme/session", body)
    assert answer.status_code == 422
    assert place in [fault["loc"] for fault in answer.json()["errors"]]


def test_an_error_does_not_repeat_the_secret(api: Api) -> None:
    body = {"credentials": {"username": "a", "password": ["hunter2"]}}
    assert "hunter2" not in api.put("/v1/accounts/acme/session", body).text
