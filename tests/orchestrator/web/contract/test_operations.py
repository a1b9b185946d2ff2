"""What the contract says of each route of dead letters, workers, alerts, health and the description."""

from __future__ import annotations

from tenants.store.accounts import circuits
from tests.orchestrator.web.contract.world import World, route


@route("GET /v1/admin/dead-letters")
def test_dead_letters_are_listed_by_each_filter(world: World) -> None:
    letter = world.letter()
    assert (letter["account"], letter["lane"], letter["error_code"]) == ("acme", "publish", "publish_failed")
    for query, found in (
        ("account=acme", 1),
        ("lane=generate", 0),
        ("pipeline=sample", 1),
        ("error_code=crashed", 0),
    ):
        assert len(world.api.get(f"/v1/admin/dead-letters?{query}").json()["items"]) == found, query


@route("GET /v1/admin/dead-letters/{id}")
def test_a_dead_letter_is_shown_with_traceback_and_attempts(world: World) -> None:
    letter = world.api.get(f"/v1/admin/dead-letters/{world.letter()['id']}").json()
    assert (letter["error"]["code"], letter["traceback"], letter["message"]) == (
        "publish_failed",
        "Traceback: …",
        {"args": []},
    )
    assert [attempt["outcome"] for attempt in letter["attempts"]] == ["failed"]


@route("POST /v1/admin/dead-letters/{id}:replay")
def test_a_dead_letter_is_replayed_once(world: World) -> None:
    path = f"/v1/admin/dead-letters/{world.letter()['id']}:replay"
    answer = world.api.post(path)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert world.api.post(path).json()["code"] == "job_not_retryable"


@route("DELETE /v1/admin/dead-letters/{id}")
def test_a_dead_letter_is_discarded_once(world: World) -> None:
    path = f"/v1/admin/dead-letters/{world.letter()['id']}"
    assert world.api.delete(path).status_code == 204
    assert world.api.delete(path).status_code == 404
    assert world.api.get(path).json()["resolution"] == "discarded"


@route("POST /v1/admin/dead-letters:replay")
def test_dead_letters_are_replayed_by_filter_after_a_dry_run(world: World) -> None:
    letter = world.letter()
    wanted = {"filter": {"lane": "publish"}, "per_second": 5}
    would = world.api.post("/v1/admin/dead-letters:replay", {**wanted, "dry_run": True}).json()
    assert (would["matched"], would["resolved"], would["ids"]) == (1, 0, [letter["id"]])
    assert world.api.post("/v1/admin/dead-letters:replay", wanted).json()["resolved"] == 1
    assert world.job(letter["job_id"])["status"] == "queued"


@route("POST /v1/admin/dead-letters:discard")
def test_dead_letters_are_discarded_by_filter_after_a_dry_run(world: World) -> None:
    world.letter()
    wanted = {"filter": {"account": "acme"}}
    assert world.api.post("/v1/admin/dead-letters:discard", {**wanted, "dry_run": True}).json()["resolved"] == 0
    assert world.api.post("/v1/admin/dead-letters:discard", wanted).json()["resolved"] == 1
    assert world.api.get("/v1/admin/dead-letters").json()["items"] == []


@route("GET /v1/admin/workers")
def test_workers_are_listed_with_what_they_run(world: World) -> None:
    job = world.new_job()
    world.bench.start(job)
    (worker,) = world.api.get("/v1/admin/workers").json()["items"]
    assert (worker["id"], worker["host"], worker["pid"], worker["threads"]) == ("w1", "here", 7, 4)
    assert [each["job_id"] for each in worker["running"]] == [job["id"]]


@route("GET /v1/admin/alerts")
def test_alerts_are_listed_with_commands_that_help(world: World) -> None:
    letter = world.letter()
    (alert,) = world.api.get("/v1/admin/alerts").json()["items"]
    assert (alert["kind"], alert["account"], alert["occurrences"]) == ("dead_letter", "acme", 1)
    assert alert["details"]["dead_letter_id"] == letter["id"]
    assert f"onelane dead-letters replay {letter['id']}" in alert["commands"]
    assert world.api.get("/v1/admin/alerts?kind=needs_review").json()["items"] == []


@route("POST /v1/admin/alerts:test")
def test_a_test_of_the_alerts_lists_each_channel(world: World) -> None:
    assert world.api.post("/v1/admin/alerts:test").json() == {"items": []}, "no alert URL is set"


@route("GET /v1/admin/circuits")
def test_circuits_are_listed_by_lane_and_account(world: World) -> None:
    owned = world.bench.start(world.new_job())
    world.bench.write(lambda c: circuits.failed(c, owned, circuits.CircuitPolicy(1, 60.0), "publish_failed"))
    (found,) = world.api.get("/v1/admin/circuits?lane=generate").json()["items"]
    assert (found["queue"], found["status"], found["failures"]) == ("generate_acme", "open", 1)
    assert world.api.get("/v1/admin/circuits?account=other").json()["items"] == []


@route("GET /v1/admin/audit")
def test_the_audit_is_read_by_target(world: World) -> None:
    world.new_job()
    world.api.post("/v1/accounts/acme:pause")
    (entry,) = world.api.get("/v1/admin/audit?target=/v1/accounts/acme:pause").json()["items"]
    assert (entry["actor"], entry["address"]) == ("admin:admin", "testclient")
    assert entry["details"] == {"before": "active", "after": "paused"}


@route("GET /v1/pipelines")
def test_pipelines_are_listed_with_steps_and_input_schema(world: World) -> None:
    pipelines = {each["name"]: each for each in world.api.get("/v1/pipelines").json()["items"]}
    assert [step["lane"] for step in pipelines["sample"]["steps"]] == ["generate", "publish"]
    assert pipelines["sample"]["input_schema"]["required"] == ["topic"]


@route("GET /healthz")
def test_the_process_is_alive(world: World) -> None:
    assert world.api.with_key(None).get("/healthz").json() == {"status": "ok"}


@route("GET /readyz")
def test_the_service_is_ready_with_database_redis_and_a_worker(world: World) -> None:
    world.bench.register_worker()
    answer = world.api.with_key(None).get("/readyz").json()
    assert answer == {"status": "ok", "parts": {"database": "ok", "redis": "ok", "workers": "ok"}, "reasons": {}}


@route("GET /metrics")
def test_the_metrics_are_served_without_a_key(world: World) -> None:
    assert "# TYPE onelane_" in world.api.with_key(None).get("/metrics").text


@route("GET /openapi.json")
def test_the_openapi_description_is_served_without_a_key(world: World) -> None:
    assert world.api.with_key(None).get("/openapi.json").json()["openapi"].startswith("3.1")


@route("GET /docs")
def test_the_documentation_is_served_without_a_key(world: World) -> None:
    assert world.api.with_key(None).get("/docs").headers["content-type"].startswith("text/html")
