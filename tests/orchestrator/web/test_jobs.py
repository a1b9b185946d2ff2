"""Jobs over HTTP, each row of the contract by its name."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from actors.clients.safe_url import HostNotFound
from orchestrator.web.api import targets
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api, Bench


@ON_BOTH
def test_post_job_answers_202_with_location_and_the_whole_job(api: Api) -> None:
    answer = api.post("/v1/accounts/acme/jobs", {**JOB, "priority": 2, "tags": ["a"], "unique_key": "u"})

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["account"], job["status"], job["priority"], job["tags"]) == ("acme", "queued", 2, ["a"])
    assert [step["name"] for step in job["steps"]] == ["write", "post"]
    assert api.get(answer.headers["location"]).json()["id"] == job["id"]


@ON_BOTH
def test_a_unique_key_answers_200_with_the_job_that_exists(api: Api) -> None:
    first = api.post("/v1/accounts/acme/jobs", {**JOB, "unique_key": "u"})
    second = api.post("/v1/accounts/acme/jobs", {**JOB, "unique_key": "u"})
    other = api.post("/v1/accounts/else/jobs", {**JOB, "unique_key": "u"})

    assert (first.status_code, second.status_code, other.status_code) == (202, 200, 202)
    assert first.json()["id"] == second.json()["id"] != other.json()["id"]


@ON_BOTH
def test_run_at_in_the_past_is_now_and_in_the_future_is_scheduled(api: Api) -> None:
    past = api.post("/v1/accounts/acme/jobs", {**JOB, "run_at": "2001-01-01T00:00:00+09:00"}).json()
    later = api.post("/v1/accounts/acme/jobs", {**JOB, "delay": 3600, "expires_in": 60}).json()

    assert past["status"] == "queued"
    assert later["status"] == "scheduled"
    assert later["expires_at"] > later["run_at"] > later["created_at"]


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        ({"input": {}}, "invalid_request", ["pipeline"]),
        ({**JOB, "pipeline": "nope"}, "unknown_pipeline", ["pipeline"]),
        ({**JOB, "input": {"topic": 5}}, "invalid_input", ["input", "topic"]),
        ({**JOB, "input": {"topic": "x", "colour": 1}}, "invalid_input", ["input", "colour"]),
        ({**JOB, "colour": "red"}, "invalid_request", ["colour"]),
        ({**JOB, "priority": 10}, "invalid_request", ["priority"]),
        ({**JOB, "priority": "5"}, "invalid_request", ["priority"]),
        ({**JOB, "priority": True}, "invalid_request", ["priority"]),
        ({**JOB, "delay": -1}, "invalid_request", ["delay"]),
        ({**JOB, "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "invalid_request", ["delay"]),
        ({**JOB, "run_at": "2030-01-01T00:00:00"}, "invalid_request", ["run_at"]),
        ({**JOB, "run_at": "tomorrow"}, "invalid_request", ["run_at"]),
        ({**JOB, "run_at": "9999-12-31T23:59:59Z"}, "invalid_request", ["run_at"]),
        ({**JOB, "run_at": 12}, "invalid_request", ["run_at"]),
        ({**JOB, "tags": [""]}, "invalid_request", ["tags", 0]),
        ({**JOB, "callback_url": "http://127.0.0.1/"}, "unsafe_url", ["callback_url"]),
        ({**JOB, "callback_url": "file:///etc/passwd"}, "unsafe_url", ["callback_url"]),
        ([], "invalid_request", None),
        ("text", "invalid_request", None),
    ],
)
def test_a_wrong_job_is_refused_and_the_field_named(api: Api, body: Any, code: str, place: list[Any] | None) -> None:
    answer = api.post("/v1/accounts/acme/jobs", body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    if place is not None:
        assert place in [fault["loc"] for fault in answer.json()["errors"]]
    assert api.get("/v1/jobs").json()["items"] == []
    assert api.get("/v1/accounts/acme").status_code == 404, "nothing is half-created"


def test_every_fault_is_reported_at_once(api: Api) -> None:
    answer = api.post("/v1/accounts/acme/jobs", {"pipeline": 1, "delay": -1, "extra": 0, "priority": 99})

    assert {fault["loc"][0] for fault in answer.json()["errors"]} == {"pipeline", "delay", "extra", "priority"}


def test_numbers_that_are_whole_count_as_integers(api: Api) -> None:
    assert api.post("/v1/accounts/acme/jobs", {**JOB, "priority": 3.0}).json()["priority"] == 3


@ON_BOTH
def test_batch_is_all_or_nothing(api: Api) -> None:
    good = api.post(
        "/v1/accounts/acme/jobs:batch", {"jobs": [{**JOB, "unique_key": "k"}, JOB, {**JOB, "unique_key": "k"}]}
    )
    assert good.status_code == 202
    ids = [item["id"] for item in good.json()["items"]]
    assert len(ids) == 3
    assert ids[0] == ids[2]
    assert not {"input", "result", "steps"} & set(good.json()["items"][0])

    bad = api.post("/v1/accounts/acme/jobs:batch", {"jobs": [JOB, {**JOB, "input": {}}, {**JOB, "pipeline": "x"}]})
    assert bad.status_code == 422
    assert {tuple(fault["loc"][:2]) for fault in bad.json()["errors"]} == {("jobs", 1), ("jobs", 2)}
    assert len(api.get("/v1/jobs").json()["items"]) == 2
    assert api.post("/v1/accounts/acme/jobs:batch", {"jobs": []}).status_code == 422
    assert api.post("/v1/accounts/acme/jobs:batch", {"jobs": [JOB] * 1001}).status_code == 422


def test_a_batch_looks_names_up_for_a_bounded_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name once, and after ten seconds none: whoever calls the URL judges it again. An address needs no look."""
    now, asked = [0.0], []

    def slow(host: str, port: int) -> list[str]:
        asked.append(host)
        now[0] += 4
        raise HostNotFound("no name server answers")

    monkeypatch.setattr(targets, "monotonic", lambda: now[0])
    monkeypatch.setattr(targets, "resolve_host", slow)
    hosts = [f"{letter}.example" for letter in "aabcdefg"]
    jobs = [{**JOB, "callback_url": f"https://{host}/{number}"} for number, host in enumerate(hosts)]
    assert api.post("/v1/accounts/acme/jobs:batch", {"jobs": jobs}).status_code == 202
    assert asked == ["a.example", "b.example", "c.example"]

    refused = api.post("/v1/accounts/acme/jobs:batch", {"jobs": [*jobs, {**JOB, "callback_url": "http://10.0.0.1/"}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "unsafe_url")
    assert refused.json()["errors"][0]["loc"] == ["jobs", 8, "callback_url"]


@ON_BOTH
def test_get_job_of_nobody_is_404(api: Api) -> None:
    for job_id in ("0199c0de-0000-7000-8000-000000000000", "x", "%00", "☃", ""):
        assert api.get(f"/v1/jobs/{job_id}").status_code == 404, job_id


@ON_BOTH
def test_list_pages_stay_right_while_jobs_are_added(api: Api, new_job: Any) -> None:
    made = [new_job()["id"] for _ in range(5)]
    first = api.get("/v1/jobs?limit=2").json()
    new_job()
    second = api.get(f"/v1/jobs?limit=2&cursor={first['next_cursor']}").json()
    third = api.get(f"/v1/jobs?limit=2&cursor={second['next_cursor']}").json()

    seen = [item["id"] for page in (first, second, third) for item in page["items"]]
    assert seen == made[::-1]
    assert third["next_cursor"] is None
    assert not {"input", "result", "output", "steps"} & set(first["items"][0])


@ON_BOTH
def test_list_filters(api: Api, new_job: Any) -> None:
    one = new_job("acme", tags=["red", "50%"], unique_key="order-1")
    two = new_job("other", tags=["blue"], delay=60)

    def ids(query: str) -> list[str]:
        return [item["id"] for item in api.get(f"/v1/jobs?{query}").json()["items"]]

    assert ids("account=acme") == [one["id"]]
    assert ids("status=scheduled") == [two["id"]]
    assert ids("pipeline=sample&tag=blue") == [two["id"]]
    assert ids("tag=50%25") == [one["id"]]
    assert ids("q=order") == [one["id"]]
    assert ids("q=5%25") == []
    assert ids("q=50%25") == [one["id"]]
    assert ids(f"q={two['id'][:30]}") == ([two["id"], one["id"]] if one["id"][:30] == two["id"][:30] else [two["id"]])
    assert ids("created_after=2001-01-01T00:00:00Z&created_before=2001-01-02T00:00:00%2B00:00") == []
    assert len(ids("created_after=2001-01-01T00:00:00+00:00")) == 2


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%2010", "limit"),
        ("limit=10%20", "limit"),
        ("limit=%2B10", "limit"),
        ("limit=+10", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=010", "limit"),
        ("limit=1.0", "limit"),
        ("limit=1e1", "limit"),
        ("limit=0x10", "limit"),
        ("limit=", "limit"),
        ("account=", "account"),
        ("cursor=", "cursor"),
        ("cursor=n01", "cursor"),
        ("cursor=n1%0A", "cursor"),
        ("cursor=t00", "cursor"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        ("status=odd", "status"),
        ("created_after=yesterday", "created_after"),
        ("q=%00", "q"),
        ("q=%FF", "q"),
        ("acount=acme", "acount"),
        ("account=..", "account"),
        ("limit=1&limit=2", "limit"),
    ],
)
def test_a_wrong_query_is_422_and_named(api: Api, query: str, name: str) -> None:
    answer = api.get(f"/v1/jobs?{query}")

    assert answer.status_code == 422
    assert name in answer.json()["detail"]


@ON_BOTH
def test_wait_answers_when_the_job_ends(api: Api, bench: Bench, new_job: Any) -> None:
    job = new_job()
    owned = bench.start(job)
    ended = threading.Timer(0.3, lambda: bench.fail(owned))
    ended.start()
    began = time.monotonic()

    answer = api.get(f"/v1/jobs/{job['id']}?wait=60")

    ended.join()
    assert answer.json()["status"] == "failed"
    assert time.monotonic() - began < 15, "it came with the end and not with the time"


def test_wait_is_over_with_the_job_as_it_is(api: Api, new_job: Any) -> None:
    job = new_job()
    assert api.get(f"/v1/jobs/{job['id']}?wait=0.05").json()["status"] == "queued"
    assert api.get(f"/v1/jobs/{job['id']}?wait=61").status_code == 422
    assert api.get("/v1/jobs/0199c0de-0000-7000-8000-000000000000?wait=5").status_code == 404


@ON_BOTH
def test_cancel_a_waiting_job_ends_it_at_once(api: Api, new_job: Any) -> None:
    job = new_job()
    answer = api.post(f"/v1/jobs/{job['id']}:cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")

    again = api.post(f"/v1/jobs/{job['id']}:cancel")
    assert (again.status_code, again.json()["code"]) == (409, "job_finished")


@ON_BOTH
def test_cancel_a_running_job_is_202(api: Api, bench: Bench, new_job: Any) -> None:
    job = new_job()
    bench.start(job)

    answer = api.post(f"/v1/jobs/{job['id']}:cancel", {})

    assert answer.status_code == 202
    assert answer.json()["cancel_requested_at"] is not None


@ON_BOTH
def test_retry_goes_on_from_the_failed_step_and_closes_the_dead_letter(api: Api, bench: Bench, new_job: Any) -> None:
    job = new_job()
    assert api.post(f"/v1/jobs/{job['id']}:retry").json()["code"] == "job_not_retryable"
    bench.complete(bench.start(job), {"title": "x"})
    bench.fail(bench.start(api.get(f"/v1/jobs/{job['id']}").json()))
    assert len(api.get("/v1/admin/dead-letters").json()["items"]) == 1

    answer = api.post(f"/v1/jobs/{job['id']}:retry")

    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert [step["status"] for step in answer.json()["steps"]] == ["completed", "queued"]
    assert api.get("/v1/admin/dead-letters").json()["items"] == []


@ON_BOTH
def test_approve_and_reject(api: Api, bench: Bench, new_job: Any) -> None:
    plain = new_job()
    assert api.post(f"/v1/jobs/{plain['id']}:approve").json()["code"] == "not_awaiting_approval"
    assert api.post(f"/v1/jobs/{plain['id']}:reject").json()["code"] == "not_awaiting_approval"
    api.post(f"/v1/jobs/{plain['id']}:cancel")

    kept, refused = new_job(approval=True), new_job(approval=True)
    for job in (kept, refused):
        bench.complete(bench.start(job), {"title": "x"})
        assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "awaiting_approval"

    assert api.post(f"/v1/jobs/{kept['id']}:approve").json()["status"] == "queued"
    rejected = api.post(f"/v1/jobs/{refused['id']}:reject", {"reason": "too short"}).json()
    assert (rejected["status"], rejected["error"]["message"]) == ("cancelled", "too short")


def test_an_unknown_verb_and_a_verb_on_a_missing_job_are_404(api: Api, new_job: Any) -> None:
    job = new_job()
    for path in (f"/v1/jobs/{job['id']}:explode", f"/v1/jobs/{job['id']}:", "/v1/jobs/nope:cancel", "/v1/jobs:cancel"):
        assert api.post(path).status_code == 404, path
    missing = api.post("/v1/jobs/nope:reject", {"colour": 1})
    assert missing.status_code == 404, "what is not there is reported before what is wrong with the body"


@pytest.mark.parametrize(
    "text", ["1_0", " 1", "+1", "1.", ".5", "1e", "NaN", "inf", "0x1", "\u0661", "01", "", "1e99999"]
)
def test_a_number_in_a_query_is_one_as_json_writes_it(api: Api, new_job: Any, text: str) -> None:
    answer = api.get(f"/v1/jobs/{new_job()['id']}", params={"wait": text})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["wait"])


@pytest.mark.parametrize("text", ["0", "0.01", "1e-2", "0.0"])
def test_a_number_in_a_query_may_have_any_form_of_json(api: Api, new_job: Any, text: str) -> None:
    assert api.get(f"/v1/jobs/{new_job()['id']}", params={"wait": text}).status_code == 200


@pytest.mark.parametrize("text", ["yes", "1", "on", "True", "t", "TRUE", ""])
def test_a_boolean_in_a_query_is_true_or_false(api: Api, new_job: Any, text: str) -> None:
    new_job()
    answer = api.delete("/v1/admin/queues/generate/acme", params={"force": text})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["force"])
