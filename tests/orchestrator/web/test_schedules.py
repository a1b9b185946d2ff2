"""Schedules over HTTP: every row of the API, whose they are, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from orchestrator.loops.schedules import ScheduleLoop
from orchestrator.runtime import Runtime
from tenants.database.models import Audit, Schedule
from tenants.store.jobs import read as stored_jobs
from tenants.store.jobs.lists import JobFilter
from tests.orchestrator.web.conftest import ON_BOTH, Api

PATH = "/v1/accounts/acme/schedules"
SCHEDULE = {"name": "mornings", "pipeline": "sample", "input": {"topic": "lanes"}, "every": 3600}


@pytest.fixture
def schedule(api: Api) -> dict[str, Any]:
    answer = api.post(PATH, SCHEDULE)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def places(answer: Any) -> list[str]:
    return [".".join(map(str, each["loc"])) for each in answer.json()["errors"]]


def fire(runtime: Runtime, schedule_id: str) -> None:
    """Let its time come."""
    table, moment = Schedule.__table__, datetime.now(UTC) - timedelta(seconds=1)
    statement = update(table).where(table.c.id == schedule_id).values(next_fire_at=moment, starts_at=moment)
    runtime.database.write(lambda c: c.execute(statement))
    ScheduleLoop(runtime).run_once()


@ON_BOTH
def test_a_schedule_is_made_read_listed_and_removed(api: Api) -> None:
    wanted = {
        **SCHEDULE,
        "every": None,
        "spread": {"per_day": 3, "window": ["09:00", "21:00"], "min_gap": 600},
        "timezone": "Asia/Seoul",
        "overlap": "skip",
        "catch_up": "all",
        "ends_at": "2100-01-01T00:00:00+09:00",
    }
    answer = api.post(PATH, wanted)
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/schedules/{made['id']}"
    for name, value in wanted.items():
        assert name == "ends_at" or made[name] == value
    assert (made["account"], made["last_fire_at"], made["inputs_left"]) == ("acme", None, None)
    assert datetime.fromisoformat(made["next_fire_at"]) > datetime.now(UTC)

    assert api.get(f"/v1/schedules/{made['id']}").json() == made
    (listed,) = api.get("/v1/schedules?account=acme").json()["items"]
    assert listed == {name: value for name, value in made.items() if name not in ("input", "inputs")}
    assert api.get("/v1/accounts/acme").json()["status"] == "active", "the account came into being with it"
    assert api.delete(f"/v1/schedules/{made['id']}").status_code == 204
    assert api.get(f"/v1/schedules/{made['id']}").status_code == 404
    assert api.delete(f"/v1/schedules/{made['id']}").status_code == 404


@ON_BOTH
def test_lists_have_pages(api: Api) -> None:
    names = [api.post(PATH, {**SCHEDULE, "name": str(n)}).json()["name"] for n in range(5)]
    first = api.get("/v1/schedules?limit=3").json()
    rest = api.get(f"/v1/schedules?limit=3&cursor={first['next_cursor']}").json()
    assert [each["name"] for each in first["items"] + rest["items"]] == names[::-1]
    assert rest["next_cursor"] is None


@ON_BOTH
def test_a_change_keeps_what_is_left_out(api: Api, schedule: dict[str, Any]) -> None:
    path = f"/v1/schedules/{schedule['id']}"
    named = api.patch(path, {"name": "evenings"}).json()
    assert (named["name"], named["next_fire_at"], named["every"]) == ("evenings", schedule["next_fire_at"], 3600)
    assert named["input"] == SCHEDULE["input"]

    cron = api.patch(path, {"cron": "0 9 * * *", "timezone": "Europe/Berlin"}).json()
    assert (cron["cron"], cron["every"], cron["overlap"]) == ("0 9 * * *", None, "queue")
    assert cron["next_fire_at"] != named["next_fire_at"]

    listed = api.patch(path, {"inputs": [{"topic": "a"}, {"topic": "b"}]}).json()
    assert (listed["inputs_left"], listed["input"]) == (2, {})
    spread = api.patch(path, {"spread": {"per_day": 2, "window": ["09:00", "21:00"]}}).json()
    assert (spread["spread"]["min_gap"], spread["cron"]) == (0.0, None)

    off = api.patch(path, {"enabled": False}).json()
    assert (off["enabled"], off["next_fire_at"]) == (False, None)
    assert api.patch(path, {"enabled": True}).json()["next_fire_at"] == spread["next_fire_at"]


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        ({}, "invalid_request", ""),
        ({"colour": 1}, "invalid_request", "colour"),
        ({"enabled": None}, "invalid_request", "enabled"),
        ({"next_fire_at": None}, "invalid_request", "next_fire_at"),
        ({"every": None}, "invalid_schedule", "cron"),
        ({"timezone": "x"}, "invalid_schedule", "timezone"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "invalid_schedule", "ends_at"),
        ({"pipeline": "none"}, "unknown_pipeline", "pipeline"),
        ({"input": {"topic": ""}}, "invalid_input", "input.topic"),
    ],
)
def test_a_wrong_change_is_422(
    api: Api, schedule: dict[str, Any], change: dict[str, Any], code: str, where: str
) -> None:
    answer = api.patch(f"/v1/schedules/{schedule['id']}", change)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert where in places(answer)
    assert api.get(f"/v1/schedules/{schedule['id']}").json() == schedule


@pytest.mark.parametrize(
    ("fields", "code", "where"),
    [
        ({"every": None}, "invalid_schedule", ["cron"]),
        ({"cron": "* * * * *"}, "invalid_schedule", ["every"]),
        ({"every": 0}, "invalid_schedule", ["every"]),
        ({"every": 10**400}, "invalid_request", ["every"]),
        ({"every": "60"}, "invalid_request", ["every"]),
        ({"every": None, "cron": "60 * * * *", "timezone": "Mars/Base"}, "invalid_schedule", ["timezone", "cron"]),
        ({"every": None, "cron": "0 0 31 2 *"}, "invalid_schedule", ["cron"]),
        ({"every": None, "at": []}, "invalid_schedule", ["at"]),
        ({"every": None, "at": ["2020-01-01T00:00:00Z"]}, "invalid_schedule", ["at"]),
        ({"every": None, "at": ["tomorrow"]}, "invalid_request", ["at.0"]),
        (
            {"every": None, "spread": {"per_day": 30, "window": ["09:00", "10:00"], "min_gap": 600}},
            "invalid_schedule",
            ["spread.min_gap"],
        ),
        ({"every": None, "spread": {"per_day": 1, "window": ["9", "10:00"]}}, "invalid_schedule", ["spread.window.0"]),
        ({"every": None, "spread": {"per_day": 1, "window": ["09:00"]}}, "invalid_request", ["spread.window"]),
        ({"jitter": -1}, "invalid_schedule", ["jitter"]),
        ({"starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}, "invalid_schedule", ["ends_at"]),
        ({"inputs": []}, "invalid_schedule", ["inputs"]),
        ({"inputs": [{"topic": "a"}]}, "invalid_schedule", ["inputs"]),
        ({"input": {}, "inputs": [{"topic": "a"}, {"topic": ""}]}, "invalid_input", ["inputs.1.topic"]),
        ({"input": {"topic": ""}, "jitter": -1}, "invalid_schedule", ["jitter", "input.topic"]),
        ({"overlap": "maybe"}, "invalid_request", ["overlap"]),
        ({"pipeline": "none"}, "unknown_pipeline", ["pipeline"]),
        ({"name": ""}, "invalid_request", ["name"]),
        ({"id": "x"}, "invalid_request", ["id"]),
    ],
)
def test_each_fault_is_located(api: Api, fields: dict[str, Any], code: str, where: list[str]) -> None:
    answer = api.post(PATH, {**SCHEDULE, **fields})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert places(answer) == where
    assert api.get("/v1/schedules").json()["items"] == []


@ON_BOTH
def test_run_now_makes_a_job_once_for_a_key(api: Api, schedule: dict[str, Any]) -> None:
    path = f"/v1/schedules/{schedule['id']}:run"
    answers = [api.post(path, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [each.status_code for each in answers] == [202, 202]
    job = answers[0].json()
    assert answers[1].json()["id"] == job["id"]
    assert (job["input"], job["tags"]) == (SCHEDULE["input"], [f"schedule:{schedule['id']}"])
    assert answers[0].headers["location"] == f"/v1/jobs/{job['id']}"
    after = api.get(f"/v1/schedules/{schedule['id']}").json()
    assert after["next_fire_at"] == schedule["next_fire_at"]
    assert after["last_fire_at"] is not None


@ON_BOTH
def test_its_jobs_wait_for_approval_where_it_says_so(api: Api, runtime: Runtime) -> None:
    schedule = api.post(PATH, {**SCHEDULE, "approval": True}).json()
    assert schedule["approval"] is True
    fire(runtime, schedule["id"])
    (made,) = runtime.jobs.list(JobFilter(account="acme"))[0]
    assert runtime.database.read(lambda c: stored_jobs.fetch(c, made["id"], None))["approval"]
    assert api.patch(f"/v1/schedules/{schedule['id']}", {"approval": False}).json()["approval"] is False
    after = api.post(f"/v1/schedules/{schedule['id']}:run").json()
    assert not runtime.database.read(lambda c: stored_jobs.fetch(c, after["id"], None))["approval"]


@ON_BOTH
def test_its_jobs_get_its_callback_priority_and_tags(api: Api, runtime: Runtime) -> None:
    given = {"callback_url": "http://127.0.0.1:9999/ended", "priority": 2, "tags": ["news", "spring"]}
    schedule = api.post(PATH, {**SCHEDULE, **given}).json()
    tag = f"schedule:{schedule['id']}"
    assert {name: schedule[name] for name in given} == given
    fire(runtime, schedule["id"])
    (fired,) = api.get(f"/v1/jobs?tag={tag}").json()["items"]
    ran = api.post(f"/v1/schedules/{schedule['id']}:run").json()
    for made in (api.get(f"/v1/jobs/{fired['id']}").json(), ran):
        assert {name: made[name] for name in given} == {**given, "tags": ["news", "spring", tag]}
    changed = api.patch(f"/v1/schedules/{schedule['id']}", {"callback_url": None, "priority": 9, "tags": []}).json()
    assert (changed["callback_url"], changed["priority"], changed["tags"]) == (None, 9, [])
    assert changed["next_fire_at"] == api.get(f"/v1/schedules/{schedule['id']}").json()["next_fire_at"]
    after = api.post(f"/v1/schedules/{schedule['id']}:run").json()
    assert (after["callback_url"], after["priority"], after["tags"]) == (None, 9, [tag])


def test_a_callback_that_may_not_be_called_is_refused_when_it_is_set(api: Api, schedule: dict[str, Any]) -> None:
    unsafe = {"callback_url": "http://10.1.2.3/ended"}
    answers = [
        api.post(PATH, {**SCHEDULE, **unsafe}),
        api.patch(f"/v1/schedules/{schedule['id']}", unsafe),
        api.post("/v1/schedules:preview", {**SCHEDULE, **unsafe}),
    ]
    assert [(each.status_code, each.json()["code"], places(each)) for each in answers] == (
        [(422, "unsafe_url", ["callback_url"])] * 3
    )
    assert api.get(f"/v1/schedules/{schedule['id']}").json() == schedule


def test_run_now_is_refused_as_a_job_would_be(api: Api, schedule: dict[str, Any]) -> None:
    path = f"/v1/schedules/{schedule['id']}"
    api.patch(path, {"inputs": [{"topic": "a"}]})
    api.put("/v1/accounts/acme/limits", {"max_waiting": 0})
    full = api.post(f"{path}:run")
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) >= 1
    api.put("/v1/accounts/acme/limits", {})
    assert api.get(path).json()["inputs_left"] == 1, "nothing was taken"
    assert api.post(f"{path}:run").status_code == 202
    ended = api.post(f"{path}:run")
    assert (ended.status_code, ended.json()["code"]) == (409, "schedule_ended")


@ON_BOTH
def test_what_became_of_its_times_is_reported(api: Api, runtime: Runtime, schedule: dict[str, Any]) -> None:
    fire(runtime, schedule["id"])
    api.post("/v1/accounts/acme:drain")
    fire(runtime, schedule["id"])
    items = api.get(f"/v1/schedules/{schedule['id']}/fires").json()["items"]
    assert [each["outcome"] for each in items] == ["refused", "fired"]
    assert items[0]["error"]["code"] == "account_draining"
    assert api.get(f"/v1/jobs/{items[1]['job_id']}").json()["status"] == "queued"


def test_a_preview_is_what_fires(api: Api, runtime: Runtime) -> None:
    fields = {"cron": "*/10 * * * *", "jitter": 300, "every": None}
    reported = api.post("/v1/schedules:preview", {**SCHEDULE, **fields, "account": "acme", "count": 3}).json()["items"]
    made = api.post(PATH, {**SCHEDULE, **fields}).json()
    # A ten-minute boundary may lie between the two calls.
    assert made["next_fire_at"] in reported[:2]
    other = api.post("/v1/schedules:preview", {**SCHEDULE, **fields, "account": "other", "count": 3}).json()["items"]
    assert other != reported, "another account's jitter is another"


def test_a_preview_needs_little_and_keeps_nothing(api: Api, runtime: Runtime) -> None:
    count = select(func.count()).select_from(Audit.__table__)
    before = runtime.database.read(lambda c: c.execute(count).scalar_one())
    answer = api.post("/v1/schedules:preview", {"cron": "30 2 29 3 *", "timezone": "Europe/Berlin", "count": 2})
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 2
    two = api.post("/v1/schedules:preview", {"every": 60, "inputs": [{}, {}], "pipeline": None})
    assert len(two.json()["items"]) == 2, "it ends with its inputs"
    wrong = api.post("/v1/schedules:preview", {"cron": "x", "count": 101})
    assert wrong.json()["code"] == "invalid_request"
    assert api.post("/v1/schedules:preview", {"cron": "x"}).json()["code"] == "invalid_schedule"
    assert api.get("/v1/schedules").json()["items"] == []
    assert runtime.database.read(lambda c: c.execute(count).scalar_one()) == before


def test_another_accounts_schedules_are_not_there(
    api: Api, schedule: dict[str, Any], make_key: Callable[..., str]
) -> None:
    own, other = api.with_key(make_key("acme")), api.with_key(make_key("other"))
    path = f"/v1/schedules/{schedule['id']}"
    for answer in (
        other.get(path),
        other.patch(path, {"enabled": False}),
        other.delete(path),
        other.post(f"{path}:run"),
        other.get(f"{path}/fires"),
        other.post(PATH, SCHEDULE),
        other.post("/v1/schedules:preview", {"every": 60, "account": "acme"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert other.get("/v1/schedules?account=acme").json()["items"] == []
    assert own.get(path).json() == schedule
    assert own.post("/v1/schedules:preview", {"every": 60}).status_code == 200


def test_a_schedule_is_made_once_for_a_key(api: Api) -> None:
    made = [api.post(PATH, SCHEDULE, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert made[1].headers["idempotency-replayed"] == "true"
    assert len(api.get("/v1/schedules").json()["items"]) == 1
