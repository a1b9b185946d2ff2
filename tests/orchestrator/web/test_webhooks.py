"""Webhooks over HTTP: the delivery log, the signing secret, and what nobody may do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from actors.errors import InvalidCall
from orchestrator.runtime import Runtime
from tenants.store.accounts.accounts import ensure_account
from tenants.store.jobs import webhook_deliveries
from tenants.store.steps import finish as finish_steps
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api, Bench
from tests.support.ports import step_port

URL = "http://127.0.0.1:9999/hook"  # what the settings of these tests allow


def ended(bench: Bench, job: dict[str, Any]) -> None:
    bench.complete(bench.start(job), {"text": "x"})


def the_job(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/jobs/{job['id']}").json()
    return found


def finish(api: Api, bench: Bench, job: dict[str, Any]) -> None:
    """Complete every step that is left."""
    while the_job(api, job)["status"] != "completed":
        ended(bench, the_job(api, job))


def log_of(api: Api, job: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get(f"/v1/jobs/{job['id']}/deliveries").json()["items"]
    return items


@ON_BOTH
def test_the_log_reports_each_try(api: Api, bench: Bench, new_job: Callable[..., dict[str, Any]]) -> None:
    job = new_job(callback_url=URL)
    assert log_of(api, job) == []
    finish(api, bench, job)
    (delivery,) = log_of(api, job)
    assert (delivery["url"], delivery["status"], delivery["job_status"]) == (URL, "queued", "completed")
    assert (delivery["type"], delivery["attempts"]) == ("job.ended", [])
    owned = bench.start(the_job(api, delivery))
    bench.write(lambda c: webhook_deliveries.note_answer(c, owned.step_id, owned.run_token, 500))
    bench.fail(owned, "callback_failed")
    (delivery,) = log_of(api, job)
    (attempt,) = delivery["attempts"]
    assert (attempt["number"], attempt["status_code"], attempt["outcome"]) == (1, 500, "failed")
    assert (delivery["status"], delivery["error"]["code"]) == ("failed", "callback_failed")
    letter = api.get(f"/v1/admin/dead-letters/{delivery['dead_letter_id']}").json()
    assert (letter["lane"], letter["job_id"]) == ("webhook", delivery["id"])
    assert api.post(f"/v1/admin/dead-letters/{letter['id']}:replay").status_code == 202
    (delivery,) = log_of(api, job)
    assert (delivery["status"], delivery["dead_letter_id"], delivery["error"]) == ("queued", None, None)


def test_a_delivery_is_its_account_s_own(
    api: Api, bench: Bench, new_job: Callable[..., dict[str, Any]], make_key: Callable[..., str]
) -> None:
    job = new_job(callback_url=URL)
    finish(api, bench, job)
    mine, other = api.with_key(make_key("acme")), api.with_key(make_key("other"))
    (delivery,) = log_of(mine, job)
    assert other.get(f"/v1/jobs/{job['id']}/deliveries").status_code == 404
    assert other.post(f"/v1/jobs/{delivery['id']}:retry").status_code == 404
    assert other.post("/v1/accounts/acme/webhook-secret").status_code == 404
    assert other.get("/v1/accounts/acme/webhook-secret").status_code == 404


def test_deliveries_are_no_jobs_that_somebody_made(
    api: Api, bench: Bench, new_job: Callable[..., dict[str, Any]]
) -> None:
    job = new_job(callback_url=URL)
    finish(api, bench, job)
    (delivery,) = log_of(api, job)
    assert [each["id"] for each in api.get("/v1/jobs?account=acme").json()["items"]] == [job["id"]]
    assert [each["id"] for each in api.get("/v1/jobs?pipeline=webhook").json()["items"]] == [delivery["id"]]
    assert "webhook" not in [each["name"] for each in api.get("/v1/pipelines").json()["items"]]
    made = {**JOB, "pipeline": "webhook", "input": {"job": job["id"], "status": "completed"}}
    refused = api.post("/v1/accounts/acme/jobs", made)
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_pipeline")


def test_deliveries_take_no_room_from_jobs(api: Api, bench: Bench, new_job: Callable[..., dict[str, Any]]) -> None:
    job = new_job(callback_url=URL)
    finish(api, bench, job)
    assert api.put("/v1/accounts/acme/limits", {"max_waiting": 1, "daily_quota": 2}).status_code == 200
    new_job()
    assert api.post("/v1/accounts/acme/jobs", JOB).json()["code"] in ("queue_full", "quota_exhausted")


@ON_BOTH
def test_a_secret_is_shown_once_and_its_predecessor_signs_too(api: Api, runtime: Runtime) -> None:
    path = "/v1/accounts/acme/webhook-secret"
    assert api.get(path).status_code == 404
    first = api.post(path)
    assert first.status_code == 201
    assert first.json()["previous_until"] is None
    second = api.post(path, headers={"Idempotency-Key": "again"}).json()
    assert api.post(path, headers={"Idempotency-Key": "again"}).json() == second, "a lost answer rotates nothing twice"
    assert second["previous_until"] is not None
    assert set(api.get(path).json()) == {"created_at", "previous_until"}
    now = datetime.now(UTC)
    signatures = runtime.webhook_secrets.signatures("acme", "message", now, "{}").split(" ")
    assert signatures == [Webhook(each["secret"]).sign("message", now, "{}") for each in (second, first.json())]


def test_secrets_are_sealed(api: Api, runtime: Runtime) -> None:
    secret = api.post("/v1/accounts/acme/webhook-secret").json()["secret"]
    rows = runtime.database.read(lambda c: c.exec_driver_sql("SELECT * FROM webhook_secrets").all())
    assert secret not in repr(rows)
    audit = api.get("/v1/admin/audit").text
    assert "webhook-secret" in audit
    assert secret not in audit


def test_an_account_without_a_secret_gets_one_that_stays(runtime: Runtime) -> None:
    now = datetime.now(UTC)
    for account in ("acme", "other"):
        runtime.database.write(lambda connection, name=account: ensure_account(connection, name))  # type: ignore[misc]
    first = runtime.webhook_secrets.signatures("acme", "message", now, "{}")
    assert first == runtime.webhook_secrets.signatures("acme", "message", now, "{}")
    assert first != runtime.webhook_secrets.signatures("other", "message", now, "{}")


def test_a_delivery_alone_gets_a_signed_call(
    api: Api, bench: Bench, runtime: Runtime, new_job: Callable[..., dict[str, Any]]
) -> None:
    secret = api.post("/v1/accounts/acme/webhook-secret").json()["secret"]
    job = new_job(callback_url=URL)
    mine = step_port(runtime, bench.start(job))
    for verb in ("callback.load", "callback.answered"):
        with pytest.raises(InvalidCall):
            mine.call(verb, {"status_code": 200})
    api.post(f"/v1/jobs/{job['id']}:cancel")
    bench.write(lambda c: finish_steps.lose(c, the_job(api, job)["steps"][0]["id"], 1))
    (delivery,) = log_of(api, job)
    its = step_port(runtime, bench.start(the_job(api, delivery)))
    call = its.call("callback.load", {})
    assert (call["url"], call["allowed_hosts"]) == (URL, ["127.0.0.1:9999"])
    assert call["headers"]["webhook-id"] == delivery["id"]
    reported = Webhook(secret).verify(call["body"], call["headers"])
    assert reported["data"] == the_job(api, job), "as the API shows it"
    its.call("callback.answered", {"status_code": 204})
    assert log_of(api, job)[0]["attempts"][0]["status_code"] == 204
