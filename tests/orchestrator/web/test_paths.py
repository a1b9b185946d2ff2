"""Routing on the undecoded path: accounts of every shape, verbs, and what is neither."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from orchestrator.web.http.paths import PathTable, SplitPath, Template, UndecodablePath, split_path
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api

ODD_ACCOUNTS = [
    "a",
    "*",
    "a/b",
    "a/jobs",
    "a:pause",
    "a:b:c",
    "{}",
    "{account}",
    "a b",
    "a+b",
    "a%2Fb",
    "a.b",
    "...",
    "A_B",
    "🐝🍯",
    "Ünïcödé",
    "한국어",
    "a?b#c&d=e",
    "'; DROP TABLE jobs; --",
    "x" * 200,
    "🐝" * 200,
    "e\u0301",
    "\u00e9",
    "a\u200b",
]


@ON_BOTH
def test_accounts_of_every_shape_have_jobs_of_their_own(api: Api) -> None:
    for account in ODD_ACCOUNTS:
        answer = api.post(f"/v1/accounts/{quote(account, safe='')}/jobs", JOB)
        assert answer.status_code == 202, (account, answer.text)
        assert answer.json()["account"] == account

    for account in ODD_ACCOUNTS:
        path = quote(account, safe="")
        assert len(api.get(f"/v1/jobs?account={path}").json()["items"]) == 1, account
        assert api.get(f"/v1/accounts/{path}").json()["account"] == account
        assert api.get(f"/v1/admin/queues/generate/{path}").json()["queue"] == f"generate_{account}"
    assert len(api.get("/v1/accounts?limit=200").json()["items"]) == len(ODD_ACCOUNTS)


@pytest.mark.parametrize("account", ["", "%2E", "%2e%2e", "%00", "a%0Ab", "%7F", "%C2%85", "x" * 201])
def test_an_account_out_of_shape_is_422(api: Api, account: str) -> None:
    answer = api.post(f"/v1/accounts/{account}/jobs", JOB)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == ["account"]


@pytest.mark.parametrize(
    "path", ["/v1/accounts/%FF/jobs", "/v1/accounts/%ED%A0%80", "/v1/jobs/%C3", "/v1/%zz", "/v1/jobs/%"]
)
def test_a_path_that_is_not_utf8_is_422(api: Api, path: str) -> None:
    assert split_fails(path)
    answer = api.post(path, JOB)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def split_fails(path: str) -> bool:
    try:
        split_path(path.encode())
    except UndecodablePath:
        return True
    return False


@pytest.mark.parametrize(
    "path",
    [
        "/v1/accounts/a:explode",
        "/v1/accounts/a:pause:now",
        "/v1/accounts/a:b/jobs",
        "/v1/accounts/a/jobs%3Abatch",
        "/v1/accounts/a/jobs:batch/x",
        "/v1/jobs%2Fx",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/nothing",
        "//v1/jobs",
        "/v1/jobs/x/y/z",
        "/V1/jobs",
    ],
)
def test_what_is_no_path_is_404(api: Api, path: str) -> None:
    answer = api.post(path, JOB)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_405_names_the_methods_that_apply(api: Api) -> None:
    answer = api.delete("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert api("TRACE", "/healthz").status_code == 405


def test_head_is_get_without_the_body(api: Api) -> None:
    head, get = api("HEAD", "/v1/pipelines"), api.get("/v1/pipelines")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert api("HEAD", "/v1/nothing").status_code == 404


def test_options_reports_the_methods(api: Api) -> None:
    answer = api.with_key(None)("OPTIONS", "/v1/accounts/acme/session")
    assert (answer.status_code, answer.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PUT")


def test_the_path_table_prefers_literals_and_knows_verbs() -> None:
    table = PathTable(
        (Template.parse(path), path) for path in ("/a/{x}", "/a/b", "/a/{x}:go", "/a:go", "/{x}/b", "/a/{x}/c")
    )

    def find(path: str) -> Any:
        split = split_path(path.encode())
        return table.find(split) if split is not None else None

    assert find("/a/b") == ("/a/b", {})
    assert find("/a/%62") == ("/a/b", {}), "an encoded letter is the same letter"
    assert find("/a/c") == ("/a/{x}", {"x": "c"})
    assert find("/a/b:go") == ("/a/{x}:go", {"x": "b"})
    assert find("/a/b%3Ago") == ("/a/{x}", {"x": "b:go"})
    assert find("/a:go") == ("/a:go", {})
    assert find("/a/x/c") == ("/a/{x}/c", {"x": "x"})
    assert find("/a/x%2Fc") == ("/a/{x}", {"x": "x/c"})
    assert find("/a/x:y/c") is None
    assert split_path(b"/a") == SplitPath(("a",), None)
