"""Tenant queues, dead letters, workers, pipelines over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api, Bench


def test_queues_are_listed_by_page_and_filter(api: Api, new_job: Any) -> None:
    for account in ("a", "b", "c"):
        new_job(account)
    first = api.get("/v1/admin/queues?limit=2").json()
    rest = api.get(f"/v1/admin/queues?limit=2&cursor={first['next_cursor']}").json()
    names = [item["queue"] for page in (first, rest) for item in page["items"]]
    assert sorted(names) == ["generate_a", "generate_b", "generate_c"]

    one = api.get("/v1/admin/queues?account=b").json()["items"]
    assert [(item["lane"], item["account"], item["waiting"], item["paused"]) for item in one] == [
        ("generate", "b", 1, False)
    ]
    assert api.get("/v1/admin/queues?lane=publish").json()["items"] == []
    assert api.get("/v1/admin/queues?lane=nope").json()["items"] == []
    assert api.get("/v1/admin/queues?idle_longer_than=3600").json()["items"] == []
    assert api.get("/v1/admin/queues?idle_longer_than=-1").status_code == 422
    assert api.get("/v1/admin/queues?cursor=nonsense").status_code == 422
    assert api.get("/v1/admin/queues/generate/b").json()["queue"] == "generate_b"
    for path in ("generate/z", "publish/b", "nope/b", "%00/b"):
        assert api.get(f"/v1/admin/queues/{path}").status_code == 404, path


@ON_BOTH
def test_delete_of_a_queue_that_waits_needs_force_and_cancels(api: Api, new_job: Any) -> None:
    account = "a/b 🐝"
    path = f"/v1/admin/queues/generate/{quote(account, safe='')}"
    jobs = [new_job(quote(account, safe="")) for _ in range(3)]
    other = new_job("other")

    refused = api.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "queue_not_empty")
    assert api.delete(f"{path}?force=true").json() == {"cancelled": 3, "deleted": True}
    for job in jobs:
        ended = api.get(f"/v1/jobs/{job['id']}").json()
        assert ended["status"] == "cancelled"
        assert {step["status"] for step in ended["steps"]} == {"cancelled"}
    assert api.get(path).status_code == 404
    assert api.delete(path).status_code == 404
    assert api.get(f"/v1/jobs/{other['id']}").json()["status"] == "queued"
    again = new_job(quote(account, safe=""))
    assert again["status"] == "queued"
    assert api.get(path).json()["waiting"] == 1, "the next message makes the queue again"


def test_delete_of_an_empty_queue(api: Api, new_job: Any) -> None:
    api.post(f"/v1/jobs/{new_job()['id']}:cancel")
    assert api.delete("/v1/admin/queues/generate/acme").json() == {"cancelled": 0, "deleted": True}


def test_delete_of_a_queue_at_work_is_refused(api: Api, bench: Bench, new_job: Any) -> None:
    bench.start(new_job())
    for query in ("", "?force=true"):
        answer = api.delete(f"/v1/admin/queues/generate/acme{query}")
        assert (answer.status_code, answer.json()["code"]) == (409, "account_busy")


def test_reap_tears_idle_queues_down(api: Api, new_job: Any) -> None:
    for account in ("a", "b"):
        api.post(f"/v1/jobs/{new_job(account)['id']}:cancel")
    new_job("busy")

    assert api.post("/v1/admin/reap").json()["reaped"] == 0, "nothing has been idle for a day"
    dry = api.post("/v1/admin/reap", {"idle_longer_than": 0, "dry_run": True}).json()
    assert dry["reaped"] == 2
    assert {each["queue"] for each in dry["queues"]} == {"generate_a", "generate_b"}
    assert api.post("/v1/admin/reap", {"idle_longer_than": 0}).json()["reaped"] == 2
    assert [item["queue"] for item in api.get("/v1/admin/queues").json()["items"]] == ["generate_busy"]
    assert api.post("/v1/admin/reap", {"idle_longer_than": -1}).status_code == 422


@ON_BOTH
def test_a_dead_letter_is_listed_read_and_replayed(api: Api, bench: Bench, new_job: Any) -> None:
    job = new_job()
    bench.fail(bench.start(job))
    letter = api.get("/v1/admin/dead-letters").json()["items"][0]
    assert (letter["job_id"], letter["error_code"], letter["attempt_count"]) == (job["id"], "publish_failed", 1)
    assert "traceback" not in letter["error"]

    whole = api.get(f"/v1/admin/dead-letters/{letter['id']}").json()
    assert whole["traceback"].startswith("Traceback")
    assert whole["message"] == {"args": []}
    assert [attempt["outcome"] for attempt in whole["attempts"]] == ["failed"]
    for query, found in (
        ("account=acme", 1),
        ("account=other", 0),
        ("lane=generate", 1),
        ("pipeline=sample&error_code=publish_failed", 1),
        ("error_code=internal", 0),
    ):
        assert len(api.get(f"/v1/admin/dead-letters?{query}").json()["items"]) == found, query

    replayed = api.post(f"/v1/admin/dead-letters/{letter['id']}:replay")
    assert (replayed.status_code, replayed.json()["status"]) == (202, "queued")
    again = api.post(f"/v1/admin/dead-letters/{letter['id']}:replay")
    assert (again.status_code, again.json()["code"]) == (409, "job_not_retryable")
    assert api.get("/v1/admin/dead-letters").json()["items"] == []
    assert api.get(f"/v1/admin/dead-letters/{letter['id']}").json()["resolution"] == "replayed"


def test_a_dead_letter_is_discarded(api: Api, bench: Bench, new_job: Any) -> None:
    bench.fail(bench.start(new_job()))
    letter = api.get("/v1/admin/dead-letters").json()["items"][0]
    assert api.delete(f"/v1/admin/dead-letters/{letter['id']}").status_code == 204
    assert api.delete(f"/v1/admin/dead-letters/{letter['id']}").status_code == 404
    assert api.post("/v1/admin/dead-letters/nope:replay", {"colour": 1}).status_code == 404


@ON_BOTH
def test_workers_show_what_they_run(api: Api, bench: Bench, new_job: Any) -> None:
    assert api.get("/v1/admin/workers").json()["items"] == []
    job = new_job()
    bench.start(job)
    worker = api.get("/v1/admin/workers").json()["items"][0]
    assert (worker["id"], worker["pid"], worker["threads"]) == ("w1", 7, 4)
    assert [(run["job_id"], run["step"]) for run in worker["running"]] == [(job["id"], "write")]


def test_pipelines_report_their_steps_and_input(api: Api, make_key: Any) -> None:
    for caller in (api, api.with_key(make_key("acme"))):
        found = {each["name"]: each for each in caller.get("/v1/pipelines").json()["items"]}
        sample = found["sample"]
        assert [(step["name"], step["lane"], step["time_limit"]) for step in sample["steps"]] == [
            ("write", "generate", 60.0),
            ("post", "publish", 60.0),
        ]
        assert sample["input_schema"]["required"] == ["topic"]
    assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202
