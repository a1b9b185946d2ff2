"""Why a job waits, its place, and how long it may take: each reason by its name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from orchestrator.web.app import create_app
from tenants.database.columns import db_now
from tenants.database.models import Attempt, Step
from tenants.store.accounts import queues
from tenants.store.steps import finish as finish_steps
from tests.orchestrator.web.conftest import ADMIN_KEY, ON_BOTH, Api, Bench


def why(api: Api, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["code"]: each for each in api.get(f"/v1/jobs/{job['id']}/why").json()["items"]}


@ON_BOTH
def test_a_job_that_is_next_waits_for_a_thread(api: Api, bench: Bench, new_job: Any) -> None:
    bench.register_worker()
    job = new_job()
    assert list(why(api, job)) == ["behind_other_jobs"]
    assert why(api, job)["behind_other_jobs"]["count"] == 0
    bench.start(job)
    assert why(api, job) == {}, "it runs"


def test_a_job_that_ended_waits_for_nothing(api: Api, new_job: Any) -> None:
    job = new_job()
    api.post(f"/v1/jobs/{job['id']}:cancel")
    assert why(api, job) == {}


@ON_BOTH
def test_no_worker(api: Api, new_job: Any) -> None:
    assert "no_worker" in why(api, new_job())


@ON_BOTH
def test_scheduled(api: Api, new_job: Any) -> None:
    job = new_job(delay=3600)
    assert why(api, job)["scheduled"]["until"] == job["run_at"]


@ON_BOTH
def test_behind_other_jobs_with_place_and_estimate(api: Api, bench: Bench, new_job: Any) -> None:
    bench.register_worker()
    jobs = [new_job() for _ in range(3)]
    assert why(api, jobs[2])["behind_other_jobs"]["count"] == 2

    shown = [api.get(f"/v1/jobs/{job['id']}").json() for job in jobs]

    assert [each["queue_position"] for each in shown] == [0, 1, 2]
    assert [each["estimated_wait"] for each in shown] == [0, None, None], "nothing was measured yet"
    listed = api.get("/v1/jobs").json()["items"]
    assert {each["queue_position"] for each in listed} == {None}, "only the single job reports"


@ON_BOTH
def test_the_estimate_comes_from_what_the_accounts_steps_took_on_the_lane(
    api: Api, bench: Bench, runtime: Runtime, new_job: Any
) -> None:
    def took(account: str, lane: str, seconds: float) -> None:
        job = new_job(account)
        owned = bench.start(job)
        bench.complete(owned, {})
        table = Attempt.__table__
        ago = db_now(-seconds)
        statement = update(table).where(table.c.step_id == owned.step_id)
        bench.write(lambda c: c.execute(statement.values(lane=lane, started_at=ago, finished_at=db_now())))
        api.post(f"/v1/jobs/{job['id']}:cancel")
        runtime.broker.queues_admin.purge("generate", account)  # the bench takes no message

    for seconds in (40, 20):
        took("acme", "generate", seconds)
    took("acme", "publish", 900)
    took("other", "generate", 5)

    jobs = [new_job() for _ in range(3)]
    waits = [api.get(f"/v1/jobs/{job['id']}").json()["estimated_wait"] for job in jobs]
    assert waits[0] == 0
    assert 29 <= waits[1] <= 33, "the mean of the account's own steps on the lane"
    assert abs(waits[2] - 2 * waits[1]) < 1
    others = [new_job("other") for _ in range(2)]
    assert 4 <= api.get(f"/v1/jobs/{others[1]['id']}").json()["estimated_wait"] <= 8
    api.put("/v1/accounts/acme/limits", {"lanes": {"generate": {"concurrency": 2}}})
    assert abs(api.get(f"/v1/jobs/{jobs[2]['id']}").json()["estimated_wait"] - waits[1]) < 1, "two at a time"


@ON_BOTH
def test_at_concurrency(api: Api, bench: Bench, new_job: Any) -> None:
    first, second = new_job(), new_job()
    bench.start(first)
    found = why(api, second)
    assert found["at_concurrency"]["count"] == 1


@ON_BOTH
def test_at_the_accounts_concurrency(api: Api, bench: Bench, new_job: Any) -> None:
    api.put("/v1/accounts/acme/limits", {"account_concurrency": 1})
    first, second = new_job(), new_job()
    bench.complete(bench.start(first), {})
    bench.start(api.get(f"/v1/jobs/{first['id']}").json())  # runs on the other lane
    assert "account" in why(api, second)["at_concurrency"]["message"]


@ON_BOTH
@pytest.mark.parametrize(("verb", "code"), [("pause", "account_paused"), ("suspend", "account_suspended")])
def test_a_held_account(api: Api, new_job: Any, verb: str, code: str) -> None:
    job = new_job()
    api.post(f"/v1/accounts/acme:{verb}")
    assert code in why(api, job)
    api.post("/v1/accounts/acme:resume")
    assert code not in why(api, job)


@ON_BOTH
def test_a_paused_queue_and_a_paused_lane(api: Api, new_job: Any) -> None:
    job = new_job()
    api.post("/v1/admin/queues/generate/acme:pause")
    api.post("/v1/admin/lanes/generate:pause")
    assert {"queue_paused", "lane_paused"} <= set(why(api, job))


@ON_BOTH
def test_a_pause_that_came_by_itself(api: Api, runtime: Runtime, new_job: Any) -> None:
    job = new_job()
    runtime.database.write(lambda c: queues.pause_for_login(c, "generate", "acme"))
    runtime.settings_sync.sync_account("acme")
    found = why(api, job)
    assert "login_required" in found
    assert "queue_paused" not in found


def test_rate_limited(api: Api, runtime: Runtime, new_job: Any) -> None:
    api.put("/v1/accounts/acme/limits", {"lanes": {"generate": {"rate": {"limit": 1, "per": 3600}}}})
    first, second = new_job(), new_job()
    consumer = runtime.broker.consume("generate", prefetch=1, timeout=60_000)
    try:
        message = next(consumer)
        assert message is not None, "the first one uses the rate up"
        found = why(api, second)["rate_limited"]
        assert datetime.fromisoformat(found["until"]) > datetime.now(UTC) + timedelta(minutes=30)
        consumer.ack(message)
    finally:
        consumer.close()
    assert first["id"] != second["id"]


@ON_BOTH
@pytest.mark.parametrize(
    ("outcome", "code"),
    [("failed", "retry_backoff"), ("provider_busy", "provider_backoff"), ("snoozed", "scheduled")],
)
def test_a_backoff(api: Api, bench: Bench, new_job: Any, outcome: Any, code: str) -> None:
    job = new_job()
    owned = bench.start(job)
    bench.write(lambda c: finish_steps.retry(c, owned, outcome=outcome, error=None, delay_seconds=600))
    until = datetime.fromisoformat(why(api, job)[code]["until"])
    assert datetime.now(UTC) < until < datetime.now(UTC) + timedelta(seconds=660)


@ON_BOTH
def test_awaiting_approval(api: Api, bench: Bench, new_job: Any) -> None:
    job = new_job(approval=True)
    bench.complete(bench.start(job), {})
    assert list(why(api, job)) == ["awaiting_approval"]


def test_not_dispatched(api: Api, bench: Bench, runtime: Runtime, new_job: Any) -> None:
    bench.register_worker()
    job = new_job()
    runtime.broker.queues_admin.remove("generate", "acme", [job["steps"][0]["id"]])
    bench.write(lambda c: c.execute(update(Step.__table__).values(dispatched_at=None, queued_at=db_now())))
    assert list(why(api, job)) == ["not_dispatched"]


def test_without_redis_it_reports_what_sql_knows(settings_of: Callable[..., Settings], migrated_url: str) -> None:
    runtime = Runtime(settings_of(migrated_url, redis_url="redis://127.0.0.1:1"))
    try:
        with TestClient(create_app(runtime), raise_server_exceptions=False) as client:
            api = Api(client, ADMIN_KEY)
            job = api.post("/v1/accounts/acme/jobs", {"pipeline": "sample", "input": {"topic": "lanes"}}).json()
            api.post("/v1/accounts/acme:pause")
            assert {"redis_unavailable", "account_paused", "no_worker"} <= set(why(api, job))
            shown = api.get(f"/v1/jobs/{job['id']}").json()
            assert (shown["queue_position"], shown["estimated_wait"]) == (None, None)
    finally:
        runtime.close()


def test_a_job_of_nobody_is_404(api: Api) -> None:
    assert api.get("/v1/jobs/0199c0de-0000-7000-8000-000000000000/why").status_code == 404
