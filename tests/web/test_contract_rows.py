"""The contract's rows by their names: each route that is served has one test here, found by method and path.

    pytest tests/web/test_contract_rows.py -k "jobs/{id}:retry"

A row's test makes the call as a client would and looks at what the contract says of its answer; the edges of each call
stand in the modules of their nouns. A route that changes something must also have told the audit what was before and
after, which is looked at for every row alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.loops.eraser import Eraser
from orchestrator.runtime import Runtime
from orchestrator.web.app import ROUTES
from tenants.store import circuits, publications
from tests.web.artifacts import PICTURE, save
from tests.web.conftest import JOB, Api, Bench
from tests.web.event_streams import stream

Case = Callable[["World"], None]
ROWS: dict[str, Case] = {}
JOBS = "/v1/accounts/acme/jobs"
SCHEDULE = {"name": "mornings", "pipeline": "sample", "input": {"topic": "lanes"}, "every": 3600}


@dataclass(frozen=True)
class World:
    """One fresh installation, and what a test does with it."""

    api: Api
    bench: Bench
    runtime: Runtime
    new_job: Callable[..., dict[str, Any]]
    request: pytest.FixtureRequest

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/jobs/{job_id}").json()
        return found

    def failed_job(self) -> dict[str, Any]:
        """A job whose second step failed for good, which left a dead letter."""
        job = self.new_job()
        self.bench.complete(self.bench.start(job), {"title": "x"})
        self.bench.fail(self.bench.start(self.job(job["id"])))
        return self.job(job["id"])

    def letter(self) -> dict[str, Any]:
        self.failed_job()
        (found,) = self.api.get("/v1/admin/dead-letters").json()["items"]
        letter: dict[str, Any] = found
        return letter

    def awaiting(self) -> str:
        job = self.new_job(approval=True)
        self.bench.complete(self.bench.start(job), {"title": "x"})
        return str(job["id"])

    def draft(self) -> dict[str, Any]:
        owned = self.bench.start(self.new_job())
        self.bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=["a"]))
        draft: dict[str, Any] = self.api.get("/v1/drafts").json()["items"][0]
        return draft

    def unknown_publication(self) -> str:
        job = self.new_job()
        owned = self.bench.start(job)
        self.bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=[]))
        self.bench.complete(owned, {})
        owned = self.bench.start(self.job(job["id"]))
        self.bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
        self.bench.write(lambda c: publications.started(c, owned, 1))
        self.bench.write(lambda c: publications.unknown(c, owned, "the browser died"))
        self.bench.fail(owned, "outcome_unknown")
        return str(self.api.get("/v1/drafts?status=needs_review").json()["items"][0]["publication"]["id"])

    def schedule(self) -> str:
        return str(self.api.post("/v1/accounts/acme/schedules", SCHEDULE).json()["id"])


def row(name: str) -> Callable[[Case], Case]:
    """The test of the row with this method and path."""

    def add(case: Case) -> Case:
        assert name not in ROWS, name
        ROWS[name] = case
        return case

    return add


@pytest.fixture
def world(
    api: Api, bench: Bench, runtime: Runtime, new_job: Callable[..., dict[str, Any]], request: pytest.FixtureRequest
) -> World:
    return World(api, bench, runtime, new_job, request)


# --- jobs ----------------------------------------------------------------------------------------------------------


@row("POST /v1/accounts/{account}/jobs")
def make_a_job(w: World) -> None:
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
    answer = w.api.post(JOBS, {**JOB, **whole})
    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert (job["status"], job["priority"], job["unique_key"], job["tags"]) == ("scheduled", 0, "u", ["a", "b"])
    assert job["callback_url"] == whole["callback_url"]
    assert w.api.post(JOBS, {**JOB, "unique_key": "u"}).status_code == 200, "the one that exists"


@row("POST /v1/accounts/{account}/jobs:batch")
def make_jobs(w: World) -> None:
    answer = w.api.post(f"{JOBS}:batch", {"jobs": [JOB, {**JOB, "unique_key": "u"}, {**JOB, "unique_key": "u"}]})
    assert answer.status_code == 202
    ids = [each["id"] for each in answer.json()["items"]]
    assert ids[1] == ids[2] != ids[0], "a unique hit stands in its place"


@row("GET /v1/jobs")
def list_jobs(w: World) -> None:
    made = [w.new_job(tags=[f"t{number}"])["id"] for number in range(3)]
    page = w.api.get("/v1/jobs?limit=2").json()
    assert [each["id"] for each in page["items"]] == [made[2], made[1]], "newest first"
    rest = w.api.get(f"/v1/jobs?limit=2&cursor={page['next_cursor']}").json()
    assert ([each["id"] for each in rest["items"]], rest["next_cursor"]) == ([made[0]], None)
    assert [each["id"] for each in w.api.get("/v1/jobs?q=t1").json()["items"]] == [made[1]]


@row("GET /v1/jobs/{id}")
def get_a_job(w: World) -> None:
    job = w.job(w.new_job()["id"])
    assert (job["status"], job["input"], job["queue_position"]) == ("queued", JOB["input"], 0)
    assert w.api.get(f"/v1/jobs/{job['id']}?wait=0.01").json()["id"] == job["id"]


@row("POST /v1/jobs/{id}:cancel")
def cancel_a_job(w: World) -> None:
    waiting, running = w.new_job(), w.new_job("other")
    w.bench.start(running)
    ended = w.api.post(f"/v1/jobs/{waiting['id']}:cancel")
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    asked = w.api.post(f"/v1/jobs/{running['id']}:cancel")
    assert asked.status_code == 202
    assert asked.json()["cancel_requested_at"]
    assert w.api.post(f"/v1/jobs/{waiting['id']}:cancel").json()["code"] == "job_finished"


@row("POST /v1/jobs/{id}:retry")
def retry_a_job(w: World) -> None:
    job = w.failed_job()
    again = w.api.post(f"/v1/jobs/{job['id']}:retry").json()
    assert [step["status"] for step in again["steps"]] == ["completed", "queued"], "what finished does not run again"
    assert w.api.post(f"/v1/jobs/{job['id']}:retry").json()["code"] == "job_not_retryable"


@row("POST /v1/jobs/{id}:approve")
def approve_a_job(w: World) -> None:
    job_id = w.awaiting()
    assert w.api.post(f"/v1/jobs/{job_id}:approve").json()["status"] == "queued"
    assert w.api.post(f"/v1/jobs/{job_id}:approve").json()["code"] == "not_awaiting_approval"


@row("POST /v1/jobs/{id}:reject")
def reject_a_job(w: World) -> None:
    job = w.api.post(f"/v1/jobs/{w.awaiting()}:reject", {"reason": "too short"}).json()
    assert (job["status"], job["error"]["code"], job["error"]["message"]) == ("cancelled", "rejected", "too short")


@row("GET /v1/jobs/{id}/why")
def why_a_job_waits(w: World) -> None:
    items = w.api.get(f"/v1/jobs/{w.new_job(delay=600)['id']}/why").json()["items"]
    assert [each["code"] for each in items] == ["scheduled"]
    assert items[0]["until"]


@row("GET /v1/jobs/{id}/events")
def follow_a_job(w: World) -> None:
    job = w.new_job()
    w.api.post(f"/v1/jobs/{job['id']}:cancel")
    text = w.api.get(f"/v1/jobs/{job['id']}/events").text
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert (names[0], names[-1]) == ("snapshot", "end")


@row("GET /v1/accounts/{account}/events")
def follow_an_account(w: World) -> None:
    job = w.new_job()

    async def first() -> tuple[str, Any]:
        async with stream(w.request.getfixturevalue("address"), "/v1/accounts/acme/events") as events:
            return await events.next()

    name, datum = asyncio.run(first())
    assert (name, datum["job"]) == ("snapshot", job["id"])


@row("GET /v1/jobs/{id}/artifacts")
def list_artifacts(w: World) -> None:
    job = w.new_job()
    save(w.runtime, w.bench.start(job), "shot.png", "image/png", PICTURE)
    (item,) = w.api.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    assert (item["name"], item["content_type"], item["size"]) == ("shot.png", "image/png", len(PICTURE))
    assert "signature=" in item["url"]


@row("GET /v1/artifacts/{id}")
def open_an_artifact(w: World) -> None:
    job = w.new_job()
    save(w.runtime, w.bench.start(job), "shot.png", "image/png", PICTURE)
    (item,) = w.api.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    assert w.api.with_key(None).get(item["url"]).content == PICTURE


@row("GET /v1/jobs/{id}/deliveries")
def deliveries_of_a_job(w: World) -> None:
    job = w.new_job(callback_url="http://127.0.0.1:9999/hook")
    w.api.post(f"/v1/jobs/{job['id']}:cancel")
    (delivery,) = w.api.get(f"/v1/jobs/{job['id']}/deliveries").json()["items"]
    assert (delivery["job_status"], delivery["status"]) == ("cancelled", "queued")


# --- drafts and publications ---------------------------------------------------------------------------------------


@row("GET /v1/drafts")
def list_drafts(w: World) -> None:
    draft = w.draft()
    assert [each["id"] for each in w.api.get("/v1/drafts?account=acme&status=pending_publish").json()["items"]] == [
        draft["id"]
    ]
    assert w.api.get("/v1/drafts?status=published").json()["items"] == []


@row("GET /v1/drafts/{id}")
def get_a_draft(w: World) -> None:
    answer = w.api.get(f"/v1/drafts/{w.draft()['id']}")
    draft = answer.json()
    assert (draft["title"], draft["body"], draft["tags"], draft["version"]) == ("Lanes", "# Lanes", ["a"], 1)
    assert (draft["status"], draft["publication"], answer.headers["etag"]) == ("pending_publish", None, '"1"')


@row("PATCH /v1/drafts/{id}")
def change_a_draft(w: World) -> None:
    path = f"/v1/drafts/{w.draft()['id']}"
    assert w.api.patch(path, {"title": "New"}).json()["code"] == "precondition_required"
    changed = w.api.patch(path, {"title": "New"}, headers={"If-Match": '"1"'}).json()
    assert (changed["title"], changed["body"], changed["version"]) == ("New", "# Lanes", 2)
    assert w.api.patch(path, {"title": "Old"}, headers={"If-Match": '"1"'}).json()["code"] == "stale_version"


@row("POST /v1/admin/publications/{id}:confirm")
def confirm_a_publication(w: World) -> None:
    path = f"/v1/admin/publications/{w.unknown_publication()}:confirm"
    answer = w.api.post(path, {"url": "https://blog.example/1", "external_id": "1"}).json()
    assert (answer["status"], answer["url"], answer["external_id"]) == ("confirmed", "https://blog.example/1", "1")


@row("POST /v1/admin/publications/{id}:retry")
def retry_a_publication(w: World) -> None:
    answer = w.api.post(f"/v1/admin/publications/{w.unknown_publication()}:retry").json()
    assert (answer["status"], answer["url"]) == ("intent", None)


# --- schedules -----------------------------------------------------------------------------------------------------


@row("POST /v1/accounts/{account}/schedules")
def make_a_schedule(w: World) -> None:
    answer = w.api.post("/v1/accounts/acme/schedules", {**SCHEDULE, "overlap": "skip", "catch_up": "none"})
    made = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/schedules/{made['id']}")
    assert (made["account"], made["every"], made["timezone"], made["last_fire_at"]) == ("acme", 3600, "UTC", None)
    assert made["next_fire_at"]


@row("GET /v1/schedules")
def list_schedules(w: World) -> None:
    schedule = w.schedule()
    assert [each["id"] for each in w.api.get("/v1/schedules?account=acme").json()["items"]] == [schedule]
    assert w.api.get("/v1/schedules?account=other").json()["items"] == []


@row("GET /v1/schedules/{id}")
def get_a_schedule(w: World) -> None:
    assert w.api.get(f"/v1/schedules/{w.schedule()}").json()["input"] == SCHEDULE["input"]


@row("PATCH /v1/schedules/{id}")
def change_a_schedule(w: World) -> None:
    changed = w.api.patch(f"/v1/schedules/{w.schedule()}", {"enabled": False}).json()
    assert (changed["enabled"], changed["next_fire_at"], changed["every"]) == (False, None, 3600)


@row("DELETE /v1/schedules/{id}")
def delete_a_schedule(w: World) -> None:
    path = f"/v1/schedules/{w.schedule()}"
    assert w.api.delete(path).status_code == 204
    assert w.api.get(path).status_code == 404


@row("POST /v1/schedules/{id}:run")
def run_a_schedule(w: World) -> None:
    answer = w.api.post(f"/v1/schedules/{w.schedule()}:run")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


@row("POST /v1/schedules:preview")
def preview_a_schedule(w: World) -> None:
    cadence = {"cron": "0 9 * * *", "timezone": "Europe/Berlin", "starts_at": "2026-10-24T00:00:00Z", "count": 2}
    times = w.api.post("/v1/schedules:preview", cadence).json()["items"]
    assert times == sorted(times)
    assert len(times) == 2


@row("GET /v1/schedules/{id}/fires")
def fires_of_a_schedule(w: World) -> None:
    schedule = w.schedule()
    job = w.api.post(f"/v1/schedules/{schedule}:run").json()
    (fire,) = w.api.get(f"/v1/schedules/{schedule}/fires").json()["items"]
    assert (fire["outcome"], fire["job_id"]) == ("fired", job["id"])


# --- accounts ------------------------------------------------------------------------------------------------------


@row("GET /v1/accounts")
def list_accounts(w: World) -> None:
    w.new_job("acme"), w.new_job("other")
    w.api.post("/v1/accounts/acme:pause")
    assert [each["account"] for each in w.api.get("/v1/accounts?q=ac&status=paused").json()["items"]] == ["acme"]


@row("GET /v1/accounts/{account}")
def get_an_account(w: World) -> None:
    w.new_job()
    account = w.api.get("/v1/accounts/acme").json()
    lanes = {each["lane"]: each for each in account["lanes"]}
    assert (account["status"], lanes["generate"]["waiting"], lanes["generate"]["queue"]) == (
        "active",
        1,
        "generate_acme",
    )
    assert (account["session"]["status"], account["target"], account["usage"]["today"]["jobs"]) == ("none", None, 1)


@row("GET /v1/accounts/{account}/usage")
def usage_of_an_account(w: World) -> None:
    w.new_job()
    assert w.api.get("/v1/accounts/acme/usage").json()["total"]["jobs"] == 1


@row("DELETE /v1/accounts/{account}")
def erase_an_account(w: World) -> None:
    w.bench.start(w.new_job())
    assert w.api.delete("/v1/accounts/acme").json()["code"] == "account_busy"
    answer = w.api.delete("/v1/accounts/acme?force=true")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/admin/erasures/{answer.json()['erasure_id']}"


@row("GET /v1/admin/erasures")
def list_erasures(w: World) -> None:
    w.new_job()
    begun = w.api.delete("/v1/accounts/acme").json()["erasure_id"]
    (erasure,) = w.api.get("/v1/admin/erasures?account=acme").json()["items"]
    assert (erasure["id"], erasure["requested_by"]) == (begun, "admin:admin")


@row("GET /v1/admin/erasures/{id}")
def proof_of_an_erasure(w: World) -> None:
    w.new_job()
    begun = w.api.delete("/v1/accounts/acme").json()["erasure_id"]
    eraser = Eraser(w.runtime)
    eraser.settle_seconds = 0.0
    for _ in range(20):  # as the loop does it
        eraser.run_once()
    erasure = w.api.get(f"/v1/admin/erasures/{begun}").json()
    assert (erasure["status"], erasure["removed"]["jobs"], erasure["remaining"]) == ("completed", 1, 0)
    assert w.api.get("/v1/accounts/acme").status_code == 404


@row("GET /v1/accounts/{account}:export")
def export_an_account(w: World) -> None:
    job = w.new_job()
    lines = w.api.get("/v1/accounts/acme:export").text.splitlines()
    assert len(lines) > 2
    assert job["id"] in "".join(lines)


@row("PUT /v1/accounts/{account}/limits")
def limit_an_account(w: World) -> None:
    lanes = {"publish": {"concurrency": 2, "rate": {"limit": 3, "per": 60}, "ordering": "relaxed"}}
    kept = w.api.put("/v1/accounts/acme/limits", {"weight": 2, "max_waiting": 5, "lanes": lanes}).json()
    assert (kept["weight"], kept["max_waiting"], kept["daily_quota"]) == (2, 5, None)
    assert w.api.put("/v1/accounts/acme/limits", {}).json()["weight"] == 1, "absent is default"
    assert w.api.put("/v1/accounts/acme/limits", {"lanes": {"nope": {}}}).status_code == 422


def _steer(verb: str, status: str, refusal: str | None) -> Case:
    def case(w: World) -> None:
        w.new_job()
        if status == "active":
            w.api.post("/v1/accounts/acme:suspend")
        assert w.api.post(f"/v1/accounts/acme:{verb}").json()["status"] == status
        answer = w.api.post(JOBS, JOB)
        assert (answer.status_code, answer.json().get("code")) == ((409, refusal) if refusal else (202, None))

    return case


for _verb, _status, _refusal in (
    ("pause", "paused", None),
    ("resume", "active", None),
    ("drain", "draining", "account_draining"),
    ("suspend", "suspended", "account_suspended"),
):
    row(f"POST /v1/accounts/{{account}}:{_verb}")(_steer(_verb, _status, _refusal))


@row("POST /v1/accounts/{account}/keys")
def make_a_key(w: World) -> None:
    answer = w.api.post("/v1/accounts/acme/keys", {"name": "shop"})
    assert (answer.status_code, answer.json()["scope"], answer.json()["account"]) == (201, "account", "acme")
    assert w.api.with_key(answer.json()["key"]).get("/v1/accounts/acme").status_code == 200


@row("GET /v1/accounts/{account}/keys")
def list_keys(w: World) -> None:
    made = w.api.post("/v1/accounts/acme/keys", {"name": "shop"}).json()
    (shown,) = w.api.get("/v1/accounts/acme/keys").json()["items"]
    assert (shown["id"], shown["name"], shown["last_used_at"]) == (made["id"], "shop", None)
    assert made["key"] not in str(shown)


@row("DELETE /v1/accounts/{account}/keys")
def end_all_keys(w: World) -> None:
    made = [w.api.post("/v1/accounts/acme/keys").json()["key"] for _ in range(2)]
    assert w.api.delete("/v1/accounts/acme/keys").status_code == 204
    assert {w.api.with_key(key).get("/v1/jobs").status_code for key in made} == {401}


@row("DELETE /v1/accounts/{account}/keys/{id}")
def end_a_key(w: World) -> None:
    made = w.api.post("/v1/accounts/acme/keys").json()
    assert w.api.delete(f"/v1/accounts/acme/keys/{made['id']}").status_code == 204
    assert w.api.with_key(made["key"]).get("/v1/jobs").status_code == 401


@row("POST /v1/accounts/{account}/keys/{id}:rotate")
def rotate_a_key(w: World) -> None:
    old = w.api.post("/v1/accounts/acme/keys", {"name": "shop"}).json()
    answer = w.api.post(f"/v1/accounts/acme/keys/{old['id']}:rotate", {"overlap": 60})
    assert (answer.status_code, answer.json()["name"], answer.json()["account"]) == (201, "shop", "acme")
    for key in (old["key"], answer.json()["key"]):
        assert w.api.with_key(key).get("/v1/accounts/acme").status_code == 200, "both open for a while"


@row("POST /v1/admin/keys")
def make_an_admin_key(w: World) -> None:
    made = w.api.post("/v1/admin/keys", {"name": "operator"}).json()
    assert (made["scope"], made["account"]) == ("admin", None)
    assert w.api.with_key(made["key"]).get("/v1/accounts").status_code == 200


@row("GET /v1/admin/keys")
def list_admin_keys(w: World) -> None:
    made = w.api.post("/v1/admin/keys", {"name": "operator"}).json()
    (shown,) = w.api.get("/v1/admin/keys").json()["items"]
    assert shown["id"] == made["id"]
    assert made["key"] not in str(shown)


@row("DELETE /v1/admin/keys/{id}")
def end_an_admin_key(w: World) -> None:
    made = w.api.post("/v1/admin/keys").json()
    assert w.api.delete(f"/v1/admin/keys/{made['id']}").status_code == 204
    assert w.api.with_key(made["key"]).get("/v1/accounts").status_code == 401


@row("POST /v1/admin/keys/{id}:rotate")
def rotate_an_admin_key(w: World) -> None:
    old = w.api.post("/v1/admin/keys").json()
    new = w.api.post(f"/v1/admin/keys/{old['id']}:rotate", {"overlap": 0}).json()
    assert w.api.with_key(old["key"]).get("/v1/accounts").status_code == 401
    assert w.api.with_key(new["key"]).get("/v1/accounts").status_code == 200


TARGET = {"publisher": "demo", "base_url": "http://127.0.0.1:9999", "options": {"blog": "a"}}


@row("PUT /v1/accounts/{account}/target")
def set_a_target(w: World) -> None:
    assert w.api.put("/v1/accounts/acme/target", TARGET).json() == TARGET
    assert w.api.put("/v1/accounts/acme/target", {**TARGET, "base_url": "http://10.0.0.1"}).json()["code"] == (
        "unsafe_url"
    )


@row("GET /v1/accounts/{account}/target")
def get_a_target(w: World) -> None:
    assert w.api.get("/v1/accounts/acme/target").status_code == 404
    w.api.put("/v1/accounts/acme/target", TARGET)
    assert w.api.get("/v1/accounts/acme/target").json() == TARGET


@row("DELETE /v1/accounts/{account}/target")
def forget_a_target(w: World) -> None:
    w.api.put("/v1/accounts/acme/target", TARGET)
    assert w.api.delete("/v1/accounts/acme/target").status_code == 204
    assert w.api.get("/v1/accounts/acme").json()["target"] is None


SESSION = {"credentials": {"username": "alice", "password": "hunter2-hunter2"}}


@row("PUT /v1/accounts/{account}/session")
def set_a_session(w: World) -> None:
    answer = w.api.put("/v1/accounts/acme/session", SESSION)
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert "hunter2" not in answer.text


@row("GET /v1/accounts/{account}/session")
def get_a_session(w: World) -> None:
    assert w.api.get("/v1/accounts/acme/session").json() == {"status": "none", "updated_at": None, "expires_at": None}
    w.api.put("/v1/accounts/acme/session", {"storage_state": {"cookies": []}, "expires_at": "2001-01-01T00:00:00Z"})
    assert w.api.get("/v1/accounts/acme/session").json()["status"] == "expired"


@row("DELETE /v1/accounts/{account}/session")
def forget_a_session(w: World) -> None:
    w.api.put("/v1/accounts/acme/session", SESSION)
    assert w.api.delete("/v1/accounts/acme/session").status_code == 204
    assert w.api.delete("/v1/accounts/acme/session").status_code == 404


@row("POST /v1/accounts/{account}/webhook-secret")
def make_a_webhook_secret(w: World) -> None:
    answer = w.api.post("/v1/accounts/acme/webhook-secret")
    assert answer.status_code == 201
    assert answer.json()["secret"].startswith("whsec_")
    shown = w.api.get("/v1/accounts/acme/webhook-secret").json()
    again = w.api.post("/v1/accounts/acme/webhook-secret").json()
    second, first = (each["details"] for each in w.api.get("/v1/admin/audit").json()["items"])
    assert (first["before"], second["before"]) == (None, shown)
    assert second["after"] == {name: again[name] for name in shown}


@row("GET /v1/accounts/{account}/webhook-secret")
def get_a_webhook_secret(w: World) -> None:
    w.api.post("/v1/accounts/acme/webhook-secret")
    shown = w.api.get("/v1/accounts/acme/webhook-secret").json()
    assert shown["created_at"]
    assert "secret" not in shown


# --- admin ---------------------------------------------------------------------------------------------------------

QUEUE = "/v1/admin/queues/generate/acme"


@row("GET /v1/admin/queues")
def list_queues(w: World) -> None:
    w.new_job(), w.new_job("other")
    (queue,) = w.api.get("/v1/admin/queues?lane=generate&account=acme").json()["items"]
    assert (queue["queue"], queue["waiting"], queue["active"], queue["paused"]) == ("generate_acme", 1, 0, False)
    assert w.api.get("/v1/admin/queues?idle_longer_than=3600").json()["items"] == []


@row("GET /v1/admin/queues/{lane}/{account}")
def get_a_queue(w: World) -> None:
    assert w.api.get(QUEUE).status_code == 404
    w.new_job()
    assert w.api.get(QUEUE).json()["waiting"] == 1


@row("DELETE /v1/admin/queues/{lane}/{account}")
def delete_a_queue(w: World) -> None:
    job = w.new_job()
    assert w.api.delete(QUEUE).json()["code"] == "queue_not_empty"
    assert w.api.delete(f"{QUEUE}?force=true").json() == {"cancelled": 1, "deleted": True}
    assert w.job(job["id"])["status"] == "cancelled"
    w.bench.start(w.new_job())
    assert w.api.delete(f"{QUEUE}?force=true").json()["code"] == "account_busy"


@row("POST /v1/admin/queues/{lane}/{account}:pause")
def pause_a_queue(w: World) -> None:
    job = w.new_job()
    assert w.api.post(f"{QUEUE}:pause").json()["paused"] is True
    assert "queue_paused" in {each["code"] for each in w.api.get(f"/v1/jobs/{job['id']}/why").json()["items"]}


@row("POST /v1/admin/queues/{lane}/{account}:resume")
def resume_a_queue(w: World) -> None:
    w.new_job()
    w.api.post(f"{QUEUE}:pause")
    assert w.api.post(f"{QUEUE}:resume").json()["paused"] is False


@row("POST /v1/admin/reap")
def reap(w: World) -> None:
    w.api.post(f"/v1/jobs/{w.new_job()['id']}:cancel")
    would = w.api.post("/v1/admin/reap", {"idle_longer_than": 0, "dry_run": True}).json()
    assert would["queues"] == [{"lane": "generate", "account": "acme", "queue": "generate_acme"}]
    assert w.api.post("/v1/admin/reap", {"idle_longer_than": 0}).json()["reaped"] == 1
    assert w.api.get("/v1/admin/queues").json()["items"] == []


@row("POST /v1/admin/queues:check")
def check_the_queues(w: World) -> None:
    w.new_job()
    report = w.api.post("/v1/admin/queues:check").json()
    assert (report["violations"], report["items"]) == (0, [])
    assert "generate" in report["lanes"]


@row("POST /v1/admin/reconcile")
def reconcile(w: World) -> None:
    assert w.api.post("/v1/admin/reconcile").json() == {"requeued": 0, "released": 0, "orphaned": 0}


@row("GET /v1/admin/lanes")
def list_lanes(w: World) -> None:
    w.new_job()
    lanes = {each["lane"]: each for each in w.api.get("/v1/admin/lanes").json()["items"]}
    assert (lanes["generate"]["waiting"], lanes["publish"]["waiting"], lanes["generate"]["paused"]) == (1, 0, False)


@row("GET /v1/admin/lanes/{lane}/heaviest")
def heaviest_of_a_lane(w: World) -> None:
    path = "/v1/admin/lanes/generate/heaviest"
    for account, number in (("noisy", 3), ("quiet", 1)):
        for _ in range(number):
            w.new_job(account)
    assert w.api.get(f"{path}?by=backlog").json()["items"] == [
        {"account": "noisy", "seconds": 0.0, "waiting": 3, "share": 0.75},
        {"account": "quiet", "seconds": 0.0, "waiting": 1, "share": 0.25},
    ]
    assert len(w.api.get(f"{path}?by=backlog&limit=1").json()["items"]) == 1
    assert w.api.get(path).json() == {"items": []}, "nobody has used a second yet"
    assert w.api.get(f"{path}?by=size").status_code == 422
    assert w.api.get("/v1/admin/lanes/nope/heaviest").status_code == 404


@row("POST /v1/admin/lanes/{lane}:pause")
def pause_a_lane(w: World) -> None:
    assert w.api.post("/v1/admin/lanes/generate:pause").json()["paused"] is True
    assert w.api.post("/v1/admin/lanes/nope:pause").status_code == 404


@row("POST /v1/admin/lanes/{lane}:resume")
def resume_a_lane(w: World) -> None:
    w.api.post("/v1/admin/lanes/generate:pause")
    assert w.api.post("/v1/admin/lanes/generate:resume").json()["paused"] is False


@row("PUT /v1/admin/lanes/{lane}/limits")
def limit_a_lane(w: World) -> None:
    path = "/v1/admin/lanes/generate/limits"
    assert w.api.put(path, {"global_concurrency": 3}).json() == {"global_concurrency": 3}
    assert w.api.put(path, {}).json() == {"global_concurrency": None}


@row("GET /v1/admin/dead-letters")
def list_dead_letters(w: World) -> None:
    letter = w.letter()
    assert (letter["account"], letter["lane"], letter["error_code"]) == ("acme", "publish", "publish_failed")
    for query, found in (
        ("account=acme", 1),
        ("lane=generate", 0),
        ("pipeline=sample", 1),
        ("error_code=crashed", 0),
    ):
        assert len(w.api.get(f"/v1/admin/dead-letters?{query}").json()["items"]) == found, query


@row("GET /v1/admin/dead-letters/{id}")
def get_a_dead_letter(w: World) -> None:
    letter = w.api.get(f"/v1/admin/dead-letters/{w.letter()['id']}").json()
    assert (letter["error"]["code"], letter["traceback"], letter["message"]) == (
        "publish_failed",
        "Traceback: …",
        {"args": []},
    )
    assert [attempt["outcome"] for attempt in letter["attempts"]] == ["failed"]


@row("POST /v1/admin/dead-letters/{id}:replay")
def replay_a_dead_letter(w: World) -> None:
    path = f"/v1/admin/dead-letters/{w.letter()['id']}:replay"
    answer = w.api.post(path)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert w.api.post(path).json()["code"] == "job_not_retryable"


@row("DELETE /v1/admin/dead-letters/{id}")
def discard_a_dead_letter(w: World) -> None:
    path = f"/v1/admin/dead-letters/{w.letter()['id']}"
    assert w.api.delete(path).status_code == 204
    assert w.api.delete(path).status_code == 404
    assert w.api.get(path).json()["resolution"] == "discarded"


@row("POST /v1/admin/dead-letters:replay")
def replay_dead_letters(w: World) -> None:
    letter = w.letter()
    wanted = {"filter": {"lane": "publish"}, "per_second": 5}
    would = w.api.post("/v1/admin/dead-letters:replay", {**wanted, "dry_run": True}).json()
    assert (would["matched"], would["resolved"], would["ids"]) == (1, 0, [letter["id"]])
    assert w.api.post("/v1/admin/dead-letters:replay", wanted).json()["resolved"] == 1
    assert w.job(letter["job_id"])["status"] == "queued"


@row("POST /v1/admin/dead-letters:discard")
def discard_dead_letters(w: World) -> None:
    w.letter()
    wanted = {"filter": {"account": "acme"}}
    assert w.api.post("/v1/admin/dead-letters:discard", {**wanted, "dry_run": True}).json()["resolved"] == 0
    assert w.api.post("/v1/admin/dead-letters:discard", wanted).json()["resolved"] == 1
    assert w.api.get("/v1/admin/dead-letters").json()["items"] == []


@row("GET /v1/admin/workers")
def list_workers(w: World) -> None:
    job = w.new_job()
    w.bench.start(job)
    (worker,) = w.api.get("/v1/admin/workers").json()["items"]
    assert (worker["id"], worker["host"], worker["pid"], worker["threads"]) == ("w1", "here", 7, 4)
    assert [each["job_id"] for each in worker["running"]] == [job["id"]]


@row("GET /v1/admin/alerts")
def list_alerts(w: World) -> None:
    letter = w.letter()
    (alert,) = w.api.get("/v1/admin/alerts").json()["items"]
    assert (alert["kind"], alert["account"], alert["occurrences"]) == ("dead_letter", "acme", 1)
    assert alert["details"]["dead_letter_id"] == letter["id"]
    assert f"onelane dead-letters replay {letter['id']}" in alert["commands"]
    assert w.api.get("/v1/admin/alerts?kind=needs_review").json()["items"] == []


@row("POST /v1/admin/alerts:test")
def try_the_alerts(w: World) -> None:
    assert w.api.post("/v1/admin/alerts:test").json() == {"items": []}, "no alert URL is set"


@row("GET /v1/admin/circuits")
def list_circuits(w: World) -> None:
    owned = w.bench.start(w.new_job())
    w.bench.write(lambda c: circuits.failed(c, owned, circuits.CircuitPolicy(1, 60.0), "publish_failed"))
    (found,) = w.api.get("/v1/admin/circuits?lane=generate").json()["items"]
    assert (found["queue"], found["status"], found["failures"]) == ("generate_acme", "open", 1)
    assert w.api.get("/v1/admin/circuits?account=other").json()["items"] == []


@row("GET /v1/admin/audit")
def read_the_audit(w: World) -> None:
    w.new_job()
    w.api.post("/v1/accounts/acme:pause")
    (entry,) = w.api.get("/v1/admin/audit?target=/v1/accounts/acme:pause").json()["items"]
    assert (entry["actor"], entry["address"]) == ("admin:admin", "testclient")
    assert entry["details"] == {"before": "active", "after": "paused"}


@row("GET /v1/pipelines")
def list_pipelines(w: World) -> None:
    pipelines = {each["name"]: each for each in w.api.get("/v1/pipelines").json()["items"]}
    assert [step["lane"] for step in pipelines["sample"]["steps"]] == ["generate", "publish"]
    assert pipelines["sample"]["input_schema"]["required"] == ["topic"]


# --- operations ----------------------------------------------------------------------------------------------------


@row("GET /healthz")
def alive(w: World) -> None:
    assert w.api.with_key(None).get("/healthz").json() == {"status": "ok"}


@row("GET /readyz")
def ready(w: World) -> None:
    w.bench.register_worker()
    answer = w.api.with_key(None).get("/readyz").json()
    assert answer == {"status": "ok", "parts": {"database": "ok", "redis": "ok", "workers": "ok"}, "reasons": {}}


@row("GET /metrics")
def metrics(w: World) -> None:
    assert "# TYPE onelane_" in w.api.with_key(None).get("/metrics").text


@row("GET /openapi.json")
def description(w: World) -> None:
    assert w.api.with_key(None).get("/openapi.json").json()["openapi"].startswith("3.1")


@row("GET /docs")
def documentation(w: World) -> None:
    assert w.api.with_key(None).get("/docs").headers["content-type"].startswith("text/html")


# --- what is looked at for all of them -----------------------------------------------------------------------------

_ROUTES = {f"{route.method} {route.path}": route for route in ROUTES}


def test_every_served_route_has_its_row_and_every_row_is_served(api: Api) -> None:
    paths = api.with_key(None).get("/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert served - set(ROWS) == set(), "write a row's test for each of these"
    assert set(ROWS) - served == set()


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, world: World) -> None:
    ROWS[name](world)

    route = _ROUTES[name]
    entries = world.api.get("/v1/admin/audit?limit=200").json()["items"]
    told = [entry["details"] for entry in entries if entry["action"] == name]
    if not route.audited:
        assert told == [] or name in _READ_BUT_TOLD
        return
    assert told, "a change leaves a row in the audit"
    for details in told:
        assert "after" in details, "the audit tells what it became"
        assert "before" in details or name in _NOTHING_BEFORE, "the audit tells what it was"


#: Whoever takes everything away that is held of somebody is written down, although nothing changes.
_READ_BUT_TOLD = {"GET /v1/accounts/{account}:export"}
#: What is made, computed or mended here was not there before.
_NOTHING_BEFORE = {
    "POST /v1/schedules/{id}:run",
    "POST /v1/admin/reap",
    "POST /v1/admin/queues:check",
    "POST /v1/admin/reconcile",
}
