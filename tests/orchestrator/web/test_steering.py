"""Limits, pauses, drains, lanes and the audit over HTTP: written down in SQL, felt by Redis at once."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.runtime import Runtime
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api

LIMITS = "/v1/accounts/acme/limits"


@ON_BOTH
def test_limits_replace_all_and_reach_redis(api: Api, runtime: Runtime) -> None:
    body = {
        "weight": 3,
        "account_concurrency": 2,
        "max_waiting": 10,
        "daily_quota": 100,
        "lanes": {"publish": {"concurrency": 1, "rate": {"limit": 5, "per": 60}, "ordering": "strict"}},
    }
    put = api.put(LIMITS, body)
    assert (put.status_code, put.json()) == (200, body)
    assert api.get("/v1/accounts/acme").json()["limits"] == body, "the account came into being with its limits"
    found = runtime.broker.queues_admin.describe("publish", "acme")
    assert found is not None
    assert (found.limits.weight, found.limits.rate and found.limits.rate.limit, found.limits.ordering) == (
        3,
        5,
        "strict",
    )

    again = api.put(LIMITS, {"lanes": {"generate": {}}}).json()
    assert (again["weight"], again["max_waiting"], list(again["lanes"])) == (1, None, ["generate"])
    found = runtime.broker.queues_admin.describe("publish", "acme")
    assert found is None or found.limits.weight == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"weight": 0}, ["weight"]),
        ({"weight": 101}, ["weight"]),
        ({"account_concurrency": 0}, ["account_concurrency"]),
        ({"max_waiting": -1}, ["max_waiting"]),
        ({"daily_quota": 1.5}, ["daily_quota"]),
        ({"lanes": {"nope": {}}}, ["lanes", "nope"]),
        ({"lanes": {"publish": {"concurrency": 101}}}, ["lanes", "publish", "concurrency"]),
        ({"lanes": {"publish": {"rate": {"limit": 1}}}}, ["lanes", "publish", "rate", "per"]),
        ({"lanes": {"publish": {"rate": {"limit": 0, "per": 1}}}}, ["lanes", "publish", "rate", "limit"]),
        ({"lanes": {"publish": {"ordering": "strict", "concurrency": 2}}}, ["lanes", "publish"]),
        ({"lanes": {"publish": {"colour": 1}}}, ["lanes", "publish", "colour"]),
        ({"lanes": []}, ["lanes"]),
    ],
)
def test_wrong_limits_are_422(api: Api, body: dict[str, Any], place: list[str]) -> None:
    answer = api.put(LIMITS, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert place in [fault["loc"] for fault in answer.json()["errors"]]
    assert api.get("/v1/accounts/acme").status_code == 404


@ON_BOTH
def test_max_waiting_and_daily_quota_refuse_the_post(api: Api) -> None:
    api.put(LIMITS, {"max_waiting": 2})
    assert api.post("/v1/accounts/acme/jobs:batch", {"jobs": [JOB] * 3}).json()["code"] == "queue_full"
    for _ in range(2):
        assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202
    full = api.post("/v1/accounts/acme/jobs", JOB)
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) > 0
    api.put(LIMITS, {"daily_quota": 3})
    assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202
    spent = api.post("/v1/accounts/acme/jobs", JOB)
    assert (spent.status_code, spent.json()["code"]) == (429, "quota_exhausted")
    assert 0 < int(spent.headers["retry-after"]) <= 86_400
    assert api.get("/v1/accounts/acme").json()["usage"]["today"]["jobs"] == 3, "a refused job is not counted"


@ON_BOTH
def test_pause_drain_suspend_and_resume(api: Api, runtime: Runtime) -> None:
    jobs = "/v1/accounts/acme/jobs"
    assert api.post("/v1/accounts/acme:pause").status_code == 404
    api.post(jobs, JOB)

    def held() -> bool:
        found = runtime.broker.queues_admin.describe("generate", "acme")
        assert found is not None
        return found.paused

    paused = api.post("/v1/accounts/acme:pause")
    assert (paused.status_code, paused.json()["status"], held()) == (200, "paused", True)
    assert api.post(jobs, JOB).status_code == 202, "a paused account takes jobs"
    assert api.post("/v1/accounts/acme:drain").json()["status"] == "draining"
    assert not held()
    drained = api.post(jobs, JOB)
    assert (drained.status_code, drained.json()["code"]) == (409, "account_draining")
    assert (api.post("/v1/accounts/acme:suspend").json()["status"], held()) == ("suspended", True)
    suspended = api.post(jobs, JOB)
    assert (suspended.status_code, suspended.json()["code"]) == (409, "account_suspended")
    assert (api.post("/v1/accounts/acme:resume").json()["status"], held()) == ("active", False)
    assert api.post(jobs, JOB).status_code == 202
    assert [each["account"] for each in api.get("/v1/accounts?status=active").json()["items"]] == ["acme"]
    assert api.post("/v1/accounts/%2E%2E:pause").status_code == 422


@ON_BOTH
def test_one_tenant_queue_is_paused_and_resumed(api: Api, new_job: Any) -> None:
    new_job()
    path = "/v1/admin/queues/generate/acme"
    paused = api.post(f"{path}:pause")
    assert (paused.status_code, paused.json()["paused"], paused.json()["waiting"]) == (200, True, 1)
    assert api.get(path).json()["paused"] is True
    lanes = {lane["lane"]: lane["paused"] for lane in api.get("/v1/accounts/acme").json()["lanes"]}
    assert lanes == {"generate": True, "publish": False}
    assert api.post(f"{path}:resume").json()["paused"] is False
    assert api.get(path).json()["paused"] is False
    for missing in ("nope/acme", "generate/nobody"):
        assert api.post(f"/v1/admin/queues/{missing}:pause").status_code == 404


@ON_BOTH
def test_lanes_are_listed_paused_and_bounded(api: Api, runtime: Runtime, new_job: Any) -> None:
    new_job()
    lanes = {lane["lane"]: lane for lane in api.get("/v1/admin/lanes").json()["items"]}
    assert set(lanes) >= {"generate", "publish"}
    assert (lanes["generate"]["waiting"], lanes["generate"]["ready_accounts"], lanes["generate"]["paused"]) == (
        1,
        1,
        False,
    )

    paused = api.post("/v1/admin/lanes/generate:pause")
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    assert runtime.broker.queues_admin.totals("generate").paused
    assert api.put("/v1/admin/lanes/generate/limits", {"global_concurrency": 3}).json() == {"global_concurrency": 3}
    assert runtime.broker.queues_admin.totals("generate").global_concurrency == 3
    resumed = api.post("/v1/admin/lanes/generate:resume").json()
    assert (resumed["paused"], resumed["global_concurrency"]) == (False, 3)
    assert api.put("/v1/admin/lanes/generate/limits", {}).json() == {"global_concurrency": None}
    assert api.put("/v1/admin/lanes/generate/limits", {"global_concurrency": 0}).status_code == 422
    for answer in (api.post("/v1/admin/lanes/nope:pause"), api.put("/v1/admin/lanes/nope/limits", {})):
        assert answer.status_code == 404


@ON_BOTH
def test_the_audit_reports_who_did_what(api: Api, make_key: Any, new_job: Any) -> None:
    job = new_job("a/b".replace("/", "%2F"))
    own = api.with_key(make_key("a/b"))
    own.post(f"/v1/jobs/{job['id']}:cancel")
    own.put("/v1/accounts/a%2Fb/session", {"credentials": {"username": "u", "password": "hunter2"}})
    api.put("/v1/accounts/a%2Fb/limits", {"weight": 2})
    api.post("/v1/accounts/a%2Fb:pause")
    api.put("/v1/accounts/a%2Fb/limits", {"weight": 0})
    made = api.post("/v1/accounts/a%2Fb/keys", headers={"Idempotency-Key": "k"}).json()

    rows = api.get("/v1/admin/audit").json()["items"]

    assert [row["action"] for row in rows[::-1]] == [
        "POST /v1/jobs/{id}:cancel",
        "PUT /v1/accounts/{account}/session",
        "PUT /v1/accounts/{account}/limits",
        "POST /v1/accounts/{account}:pause",
        "POST /v1/accounts/{account}/keys",
    ], "new jobs are their own record, and refused calls did nothing"
    assert rows[-1]["actor"].startswith("account:a/b:")
    assert rows[0]["actor"] == "admin:admin"
    assert rows[0]["target"] == "/v1/accounts/a/b/keys"
    assert rows[1]["details"] == {"before": "active", "after": "paused"}
    assert rows[2]["details"]["after"]["weight"] == 2
    assert rows[0]["address"]
    text = str(rows)
    assert "hunter2" not in text
    assert made["key"] not in text
    assert len(api.get("/v1/admin/audit?actor=admin:admin&limit=2").json()["items"]) == 2
    assert len(api.get("/v1/admin/audit?target=/v1/accounts/a/b/limits").json()["items"]) == 1


def test_an_operators_calls_work_while_redis_is_away(api: Api, runtime: Runtime, new_job: Any) -> None:
    """SQL decides at each start, so a pause holds although Redis has not received of it."""
    from tenants.queues import ServerUnreachable

    new_job()
    admin = runtime.broker.queues_admin

    def away(*args: Any, **more: Any) -> Any:
        raise ServerUnreachable("no server answers")

    for name in ("set_limits", "pause", "resume", "pause_account", "resume_account", "totals", "set_lane_limits"):
        setattr(admin, name, away)
    assert api.post("/v1/accounts/acme:pause").json()["status"] == "paused"
    assert api.put(LIMITS, {"weight": 2}).status_code == 200
    assert api.post("/v1/admin/queues/generate/acme:pause").json()["paused"] is True
    lane = api.post("/v1/admin/lanes/generate:pause").json()
    assert (lane["paused"], lane["waiting"]) == (True, None)
