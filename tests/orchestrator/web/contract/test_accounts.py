"""What the contract says of each route of accounts."""

from __future__ import annotations

import pytest

from orchestrator.loops.eraser import Eraser
from tests.orchestrator.web.conftest import JOB
from tests.orchestrator.web.contract.world import JOBS, World, route


@route("GET /v1/accounts")
def test_accounts_are_listed_by_name_and_status(world: World) -> None:
    world.new_job("acme"), world.new_job("other")
    world.api.post("/v1/accounts/acme:pause")
    assert [each["account"] for each in world.api.get("/v1/accounts?q=ac&status=paused").json()["items"]] == ["acme"]


@route("GET /v1/accounts/{account}")
def test_an_account_is_shown_with_its_lanes_session_target_and_usage(world: World) -> None:
    world.new_job()
    account = world.api.get("/v1/accounts/acme").json()
    lanes = {each["lane"]: each for each in account["lanes"]}
    assert (account["status"], lanes["generate"]["waiting"], lanes["generate"]["queue"]) == (
        "active",
        1,
        "generate_acme",
    )
    assert (account["session"]["status"], account["target"], account["usage"]["today"]["jobs"]) == ("none", None, 1)


@route("GET /v1/accounts/{account}/usage")
def test_the_usage_of_an_account_counts_its_jobs(world: World) -> None:
    world.new_job()
    assert world.api.get("/v1/accounts/acme/usage").json()["total"]["jobs"] == 1


@route("DELETE /v1/accounts/{account}")
def test_an_account_is_erased_and_a_busy_one_only_by_force(world: World) -> None:
    world.bench.start(world.new_job())
    assert world.api.delete("/v1/accounts/acme").json()["code"] == "account_busy"
    answer = world.api.delete("/v1/accounts/acme?force=true")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/admin/erasures/{answer.json()['erasure_id']}"


@route("GET /v1/admin/erasures")
def test_erasures_are_listed_with_who_asked_for_them(world: World) -> None:
    world.new_job()
    begun = world.api.delete("/v1/accounts/acme").json()["erasure_id"]
    (erasure,) = world.api.get("/v1/admin/erasures?account=acme").json()["items"]
    assert (erasure["id"], erasure["requested_by"]) == (begun, "admin:admin")


@route("GET /v1/admin/erasures/{id}")
def test_a_completed_erasure_proves_what_was_removed(world: World) -> None:
    world.new_job()
    begun = world.api.delete("/v1/accounts/acme").json()["erasure_id"]
    eraser = Eraser(world.runtime)
    eraser.settle_seconds = 0.0
    for _ in range(20):  # as the loop does it
        eraser.run_once()
    erasure = world.api.get(f"/v1/admin/erasures/{begun}").json()
    assert (erasure["status"], erasure["removed"]["jobs"], erasure["remaining"]) == ("completed", 1, 0)
    assert world.api.get("/v1/accounts/acme").status_code == 404


@route("GET /v1/accounts/{account}:export")
def test_the_export_of_an_account_holds_its_jobs(world: World) -> None:
    job = world.new_job()
    lines = world.api.get("/v1/accounts/acme:export").text.splitlines()
    assert len(lines) > 2
    assert job["id"] in "".join(lines)


@route("PUT /v1/accounts/{account}/limits")
def test_the_limits_of_an_account_are_replaced_as_a_whole(world: World) -> None:
    lanes = {"publish": {"concurrency": 2, "rate": {"limit": 3, "per": 60}, "ordering": "relaxed"}}
    kept = world.api.put("/v1/accounts/acme/limits", {"weight": 2, "max_waiting": 5, "lanes": lanes}).json()
    assert (kept["weight"], kept["max_waiting"], kept["daily_quota"]) == (2, 5, None)
    assert world.api.put("/v1/accounts/acme/limits", {}).json()["weight"] == 1, "absent is default"
    assert world.api.put("/v1/accounts/acme/limits", {"lanes": {"nope": {}}}).status_code == 422


@pytest.mark.parametrize(
    ("verb", "status", "refusal"),
    [
        pytest.param("pause", "paused", None, marks=route("POST /v1/accounts/{account}:pause")),
        pytest.param("resume", "active", None, marks=route("POST /v1/accounts/{account}:resume")),
        pytest.param("drain", "draining", "account_draining", marks=route("POST /v1/accounts/{account}:drain")),
        pytest.param("suspend", "suspended", "account_suspended", marks=route("POST /v1/accounts/{account}:suspend")),
    ],
)
def test_a_steered_account_takes_jobs_or_refuses_them(
    world: World, verb: str, status: str, refusal: str | None
) -> None:
    world.new_job()
    if status == "active":
        world.api.post("/v1/accounts/acme:suspend")
    assert world.api.post(f"/v1/accounts/acme:{verb}").json()["status"] == status
    answer = world.api.post(JOBS, JOB)
    assert (answer.status_code, answer.json().get("code")) == ((409, refusal) if refusal else (202, None))
