"""What the contract says of each route of jobs."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.orchestrator.web.artifacts import PICTURE, save
from tests.orchestrator.web.conftest import JOB
from tests.orchestrator.web.contract.world import JOBS, World, route
from tests.orchestrator.web.event_streams import stream


@route("POST /v1/accounts/{account}/jobs")
def test_a_new_job_answers_202_with_its_address_and_its_values(world: World) -> None:
    whole = {
        "priority": 0,
        "delay": 60,
        "expires_in": 3600,
        "deadline": 900,
        "approval": True,
        "unique_key": "u",
        "callback_url": "http://127.0.0.1:9999/hook",
        "tags": ["a", "b"],
    }
    answer = world.api.post(JOBS, {**JOB, **whole})
    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert (job["status"], job["priority"], job["unique_key"], job["tags"]) == ("scheduled", 0, "u", ["a", "b"])
    assert job["callback_url"] == whole["callback_url"]
    assert world.api.post(JOBS, {**JOB, "unique_key": "u"}).status_code == 200, "the one that exists"


@route("POST /v1/accounts/{account}/jobs:batch")
def test_a_batch_of_jobs_answers_with_a_job_for_each_in_their_order(world: World) -> None:
    answer = world.api.post(f"{JOBS}:batch", {"jobs": [JOB, {**JOB, "unique_key": "u"}, {**JOB, "unique_key": "u"}]})
    assert answer.status_code == 202
    ids = [each["id"] for each in answer.json()["items"]]
    assert ids[1] == ids[2] != ids[0], "a unique hit stands in its place"


@route("GET /v1/jobs")
def test_jobs_are_listed_newest_first_in_pages(world: World) -> None:
    made = [world.new_job(tags=[f"t{number}"])["id"] for number in range(3)]
    page = world.api.get("/v1/jobs?limit=2").json()
    assert [each["id"] for each in page["items"]] == [made[2], made[1]], "newest first"
    rest = world.api.get(f"/v1/jobs?limit=2&cursor={page['next_cursor']}").json()
    assert ([each["id"] for each in rest["items"]], rest["next_cursor"]) == ([made[0]], None)
    assert [each["id"] for each in world.api.get("/v1/jobs?q=t1").json()["items"]] == [made[1]]


@route("GET /v1/jobs/{id}")
def test_a_job_is_shown_with_its_position_in_the_queue(world: World) -> None:
    job = world.job(world.new_job()["id"])
    assert (job["status"], job["input"], job["queue_position"]) == ("queued", JOB["input"], 0)
    assert world.api.get(f"/v1/jobs/{job['id']}?wait=0.01").json()["id"] == job["id"]


@route("POST /v1/jobs/{id}:cancel")
def test_a_waiting_job_is_cancelled_and_a_running_one_is_asked_to_end(world: World) -> None:
    waiting, running = world.new_job(), world.new_job("other")
    world.bench.start(running)
    ended = world.api.post(f"/v1/jobs/{waiting['id']}:cancel")
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    asked = world.api.post(f"/v1/jobs/{running['id']}:cancel")
    assert asked.status_code == 202
    assert asked.json()["cancel_requested_at"]
    assert world.api.post(f"/v1/jobs/{waiting['id']}:cancel").json()["code"] == "job_finished"


@route("POST /v1/jobs/{id}:retry")
def test_a_failed_job_is_retried_from_the_step_that_failed(world: World) -> None:
    job = world.failed_job()
    again = world.api.post(f"/v1/jobs/{job['id']}:retry").json()
    assert [step["status"] for step in again["steps"]] == ["completed", "queued"], "what finished does not run again"
    assert world.api.post(f"/v1/jobs/{job['id']}:retry").json()["code"] == "job_not_retryable"


@route("POST /v1/jobs/{id}:approve")
def test_a_job_that_awaits_approval_is_approved_once(world: World) -> None:
    job_id = world.awaiting()
    assert world.api.post(f"/v1/jobs/{job_id}:approve").json()["status"] == "queued"
    assert world.api.post(f"/v1/jobs/{job_id}:approve").json()["code"] == "not_awaiting_approval"


@route("POST /v1/jobs/{id}:reject")
def test_a_rejected_job_is_cancelled_with_the_reason(world: World) -> None:
    job = world.api.post(f"/v1/jobs/{world.awaiting()}:reject", {"reason": "too short"}).json()
    assert (job["status"], job["error"]["code"], job["error"]["message"]) == ("cancelled", "rejected", "too short")


@route("GET /v1/jobs/{id}/why")
def test_the_reasons_why_a_job_waits_are_listed(world: World) -> None:
    items = world.api.get(f"/v1/jobs/{world.new_job(delay=600)['id']}/why").json()["items"]
    assert [each["code"] for each in items] == ["scheduled"]
    assert items[0]["until"]


@route("GET /v1/jobs/{id}/events")
def test_the_events_of_a_job_begin_with_a_snapshot_and_end(world: World) -> None:
    job = world.new_job()
    world.api.post(f"/v1/jobs/{job['id']}:cancel")
    text = world.api.get(f"/v1/jobs/{job['id']}/events").text
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert (names[0], names[-1]) == ("snapshot", "end")


@route("GET /v1/accounts/{account}/events")
def test_the_events_of_an_account_begin_with_its_jobs(world: World) -> None:
    job = world.new_job()

    async def first() -> tuple[str, Any]:
        async with stream(world.request.getfixturevalue("address"), "/v1/accounts/acme/events") as events:
            return await events.next()

    name, datum = asyncio.run(first())
    assert (name, datum["job"]) == ("snapshot", job["id"])


@route("GET /v1/jobs/{id}/artifacts")
def test_the_artifacts_of_a_job_are_listed_with_signed_addresses(world: World) -> None:
    job = world.new_job()
    save(world.runtime, world.bench.start(job), "shot.png", "image/png", PICTURE)
    (item,) = world.api.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    assert (item["name"], item["content_type"], item["size"]) == ("shot.png", "image/png", len(PICTURE))
    assert "signature=" in item["url"]


@route("GET /v1/artifacts/{id}")
def test_an_artifact_opens_by_its_signed_address_without_a_key(world: World) -> None:
    job = world.new_job()
    save(world.runtime, world.bench.start(job), "shot.png", "image/png", PICTURE)
    (item,) = world.api.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    assert world.api.with_key(None).get(item["url"]).content == PICTURE


@route("GET /v1/jobs/{id}/deliveries")
def test_the_webhook_deliveries_of_a_job_are_listed(world: World) -> None:
    job = world.new_job(callback_url="http://127.0.0.1:9999/hook")
    world.api.post(f"/v1/jobs/{job['id']}:cancel")
    (delivery,) = world.api.get(f"/v1/jobs/{job['id']}/deliveries").json()["items"]
    assert (delivery["job_status"], delivery["status"]) == ("cancelled", "queued")
