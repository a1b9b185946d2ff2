"""When a job may start and must have ended: `run_at`, `delay`, `expires_in`, `deadline`, at their edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from tenants.database.columns import db_now
from tenants.database.models import Job
from tenants.store.jobs import timers as clock
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api, Bench

JOBS = "/v1/accounts/acme/jobs"
LONGEST = 10 * 366 * 86_400


def time_of(job: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(job[name])


def set_time(bench: Bench, job: dict[str, Any], name: str, seconds: float) -> None:
    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == job["id"]).values({name: db_now(seconds)})))


@ON_BOTH
def test_a_time_that_has_passed_and_no_delay_are_now(api: Api) -> None:
    now = api.post(JOBS, {**JOB, "delay": 0}).json()
    past = api.post(JOBS, {**JOB, "run_at": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}).json()
    assert [now["status"], past["status"]] == ["queued", "queued"]
    assert time_of(past, "run_at") >= time_of(now, "created_at"), "a time that has passed is now"


@ON_BOTH
def test_a_time_keeps_its_instant_whatever_its_offset(api: Api) -> None:
    for text in ("2100-01-01T00:30:00.123456+09:00", "2099-12-31t15:30:00.123456Z"):
        job = api.post(JOBS, {**JOB, "run_at": text}).json()
        assert job["status"] == "scheduled"
        assert time_of(job, "run_at") == datetime(2099, 12, 31, 15, 30, 0, 123456, tzinfo=UTC)


@ON_BOTH
def test_expiry_counts_from_the_time_that_it_may_run(api: Api) -> None:
    later = api.post(JOBS, {**JOB, "delay": 600, "expires_in": 90}).json()
    assert time_of(later, "expires_at") - time_of(later, "run_at") == timedelta(seconds=90)
    now = api.post(JOBS, {**JOB, "expires_in": 90}).json()
    assert time_of(now, "expires_at") - time_of(now, "created_at") == timedelta(seconds=90)


@ON_BOTH
def test_a_job_that_did_not_start_in_time_expires_and_can_go_on(api: Api, bench: Bench) -> None:
    job = api.post(JOBS, {**JOB, "expires_in": 3600}).json()
    set_time(bench, job, "expires_at", -1)
    bench.write(lambda c: clock.expire_jobs(c, limit=10))
    expired = api.get(f"/v1/jobs/{job['id']}").json()
    assert (expired["status"], expired["steps"][0]["status"]) == ("expired", "cancelled")
    assert api.post(f"/v1/jobs/{job['id']}:cancel").json()["code"] == "job_finished"
    again = api.post(f"/v1/jobs/{job['id']}:retry").json()
    assert (again["status"], again["expires_at"]) == ("queued", None), "somebody wants it now"


@ON_BOTH
def test_a_job_that_started_does_not_expire(api: Api, bench: Bench) -> None:
    job = api.post(JOBS, {**JOB, "expires_in": 3600}).json()
    bench.start(job)
    set_time(bench, job, "expires_at", -1)
    bench.write(lambda c: clock.expire_jobs(c, limit=10))
    assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "running"


@ON_BOTH
def test_a_deadline_counts_from_the_first_start_over_all_steps(api: Api, bench: Bench) -> None:
    job = api.post(JOBS, {**JOB, "deadline": 90}).json()
    assert job["deadline_at"] is None, "it has not started"
    bench.complete(bench.start(job), {})
    started = api.get(f"/v1/jobs/{job['id']}").json()
    left = time_of(started, "deadline_at") - time_of(started, "started_at")
    assert timedelta(seconds=90) <= left < timedelta(seconds=95), "both by the database's clock, a moment apart"
    bench.start(started)
    assert api.get(f"/v1/jobs/{job['id']}").json()["deadline_at"] == started["deadline_at"], (
        "the next step moves nothing"
    )


@ON_BOTH
def test_a_deadline_that_passes_between_steps_ends_the_job(api: Api, bench: Bench) -> None:
    job = api.post(JOBS, {**JOB, "deadline": 90}).json()
    bench.complete(bench.start(job), {})
    set_time(bench, job, "deadline_at", -1)
    bench.write(lambda c: clock.end_at_deadline(c, limit=10))
    ended = api.get(f"/v1/jobs/{job['id']}").json()
    assert (ended["status"], ended["error"]["code"]) == ("timed_out", "deadline_passed")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"delay": LONGEST}, 202),
        ({"delay": LONGEST + 1}, 422),
        ({"expires_in": 0}, 422),
        ({"expires_in": 0.001}, 202),
        ({"deadline": 0}, 422),
        ({"deadline": LONGEST, "expires_in": LONGEST, "delay": LONGEST}, 202),
        ({"run_at": "2200-12-31T23:59:59Z"}, 202),
        ({"run_at": "2201-01-01T00:00:00Z"}, 422),
        ({"run_at": "0001-01-01T00:00:00+14:00"}, 422),
        ({"run_at": "2026-02-30T00:00:00Z"}, 422),
        ({"run_at": "2026-06-30T23:59:60Z"}, 422),
        ({"delay": 0, "run_at": "2100-01-01T00:00:00Z"}, 422),
    ],
)
def test_the_bounds_of_times(api: Api, fields: dict[str, Any], status: int) -> None:
    assert api.post(JOBS, {**JOB, **fields}).status_code == status


@ON_BOTH
def test_a_batch_takes_unfinished_twins_and_makes_finished_ones_anew(api: Api) -> None:
    ended = api.post(JOBS, {**JOB, "unique_key": "ended"}).json()
    api.post(f"/v1/jobs/{ended['id']}:cancel")
    waiting = api.post(JOBS, {**JOB, "unique_key": "waiting", "delay": 600}).json()

    wanted = [{**JOB, "unique_key": key} for key in ("waiting", "ended", "new", "new")]
    items = api.post(f"{JOBS}:batch", {"jobs": wanted}).json()["items"]

    assert items[0]["id"] == waiting["id"]
    assert (items[0]["status"], items[1]["status"]) == ("scheduled", "queued")
    assert items[1]["id"] != ended["id"]
    assert items[2]["id"] == items[3]["id"]
    assert len({item["id"] for item in items}) == 3


@ON_BOTH
def test_pages_stay_right_while_jobs_come_and_end(api: Api) -> None:
    made = [api.post(JOBS, {**JOB, "tags": ["t"]}).json()["id"] for _ in range(6)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = api.get(f"/v1/jobs?tag=t&limit=2{cursor}").json()
        seen += [item["id"] for item in page["items"]]
        api.post(JOBS, {**JOB, "tags": ["t"]})
        api.post(f"/v1/jobs/{made[0]}:cancel")
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made[::-1], "each once, none that came meanwhile"
