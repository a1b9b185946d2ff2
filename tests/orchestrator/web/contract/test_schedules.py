"""What the contract says of each route of schedules."""

from __future__ import annotations

from tests.orchestrator.web.contract.world import SCHEDULE, World, route


@route("POST /v1/accounts/{account}/schedules")
def test_a_new_schedule_answers_201_with_its_next_fire(world: World) -> None:
    answer = world.api.post("/v1/accounts/acme/schedules", {**SCHEDULE, "overlap": "skip", "catch_up": "none"})
    made = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/schedules/{made['id']}")
    assert (made["account"], made["every"], made["timezone"], made["last_fire_at"]) == ("acme", 3600, "UTC", None)
    assert made["next_fire_at"]


@route("GET /v1/schedules")
def test_schedules_are_listed_by_account(world: World) -> None:
    schedule = world.schedule()
    assert [each["id"] for each in world.api.get("/v1/schedules?account=acme").json()["items"]] == [schedule]
    assert world.api.get("/v1/schedules?account=other").json()["items"] == []


@route("GET /v1/schedules/{id}")
def test_a_schedule_is_shown_with_its_input(world: World) -> None:
    assert world.api.get(f"/v1/schedules/{world.schedule()}").json()["input"] == SCHEDULE["input"]


@route("PATCH /v1/schedules/{id}")
def test_a_schedule_that_is_switched_off_has_no_next_fire(world: World) -> None:
    changed = world.api.patch(f"/v1/schedules/{world.schedule()}", {"enabled": False}).json()
    assert (changed["enabled"], changed["next_fire_at"], changed["every"]) == (False, None, 3600)


@route("DELETE /v1/schedules/{id}")
def test_a_deleted_schedule_is_gone(world: World) -> None:
    path = f"/v1/schedules/{world.schedule()}"
    assert world.api.delete(path).status_code == 204
    assert world.api.get(path).status_code == 404


@route("POST /v1/schedules/{id}:run")
def test_a_schedule_that_is_run_now_makes_a_job(world: World) -> None:
    answer = world.api.post(f"/v1/schedules/{world.schedule()}:run")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


@route("POST /v1/schedules:preview")
def test_the_next_fires_of_a_cadence_are_previewed(world: World) -> None:
    cadence = {"cron": "0 9 * * *", "timezone": "Europe/Berlin", "starts_at": "2026-10-24T00:00:00Z", "count": 2}
    times = world.api.post("/v1/schedules:preview", cadence).json()["items"]
    assert times == sorted(times)
    assert len(times) == 2


@route("GET /v1/schedules/{id}/fires")
def test_the_fires_of_a_schedule_are_listed_with_their_jobs(world: World) -> None:
    schedule = world.schedule()
    job = world.api.post(f"/v1/schedules/{schedule}:run").json()
    (fire,) = world.api.get(f"/v1/schedules/{schedule}/fires").json()["items"]
    assert (fire["outcome"], fire["job_id"]) == ("fired", job["id"])
