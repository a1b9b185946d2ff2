"""Dead letters by filter: counted, replayed with a throttle, discarded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from dramatiq import Message

from orchestrator.loops.undeliverable import move_undeliverable
from orchestrator.runtime import Runtime
from tenants.queues import Entry
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench
from tests.tenants.queues.lanes import Hand

LETTERS = "/v1/admin/dead-letters"


@pytest.fixture
def dead(bench: Bench, new_job: Any) -> list[dict[str, Any]]:
    """Four jobs that died: three of `acme`'s, one of them with another error, and one of `other`'s."""
    jobs = []
    for account, code in (("acme", "publish_failed"), ("acme", "publish_failed"), ("acme", "crashed"), ("other", "x")):
        job = new_job(account)
        bench.fail(bench.start(job), code)
        jobs.append(job)
    return jobs


def statuses(api: Api, jobs: list[dict[str, Any]]) -> list[str]:
    return [api.get(f"/v1/jobs/{job['id']}").json()["status"] for job in jobs]


@ON_BOTH
def test_a_dry_run_only_counts(api: Api, dead: list[dict[str, Any]]) -> None:
    for verb in ("replay", "discard"):
        answer = api.post(f"{LETTERS}:{verb}", {"filter": {"account": "acme"}, "dry_run": True}).json()
        assert (answer["matched"], answer["resolved"], answer["left"], len(answer["ids"])) == (3, 0, 3, 3)
    assert len(api.get(LETTERS).json()["items"]) == 4
    assert statuses(api, dead) == ["failed"] * 4


@ON_BOTH
def test_what_may_have_taken_effect_is_replayed_only_by_name(api: Api, bench: Bench, new_job: Any) -> None:
    jobs = [new_job("acme"), new_job("other")]
    for job, code in zip(jobs, ("outcome_unknown", "crashed"), strict=True):
        bench.fail(bench.start(job), code)
    wanted: dict[str, Any] = {"filter": {}}
    assert api.post(f"{LETTERS}:replay", {**wanted, "dry_run": True}).json()["matched"] == 1
    assert api.post(f"{LETTERS}:replay", wanted).json()["resolved"] == 1
    assert statuses(api, jobs) == ["failed", "queued"]
    assert api.post(f"{LETTERS}:replay", {"filter": {"error_code": "outcome_unknown"}}).json()["resolved"] == 1
    assert statuses(api, jobs) == ["queued", "queued"]


@ON_BOTH
def test_those_that_fit_are_replayed_and_spread(api: Api, dead: list[dict[str, Any]]) -> None:
    wanted = {"filter": {"account": "acme", "error_code": "publish_failed"}, "per_second": 0.1}

    answer = api.post(f"{LETTERS}:replay", wanted).json()

    assert (answer["matched"], answer["resolved"], answer["skipped"], answer["left"]) == (2, 2, 0, 0)
    assert statuses(api, dead) == ["queued", "queued", "failed", "failed"]
    assert len(api.get(LETTERS).json()["items"]) == 2
    second = api.get(f"/v1/jobs/{dead[1]['id']}/why").json()["items"]
    until = next(each["until"] for each in second if each["code"] == "scheduled")
    first = api.get(f"/v1/jobs/{dead[0]['id']}").json()["steps"][0]["queued_at"]
    assert 5 < (datetime.fromisoformat(until) - datetime.fromisoformat(first)).total_seconds() < 40


@ON_BOTH
def test_those_that_fit_are_discarded(api: Api, dead: list[dict[str, Any]]) -> None:
    answer = api.post(f"{LETTERS}:discard", {"filter": {}}).json()
    assert (answer["matched"], answer["resolved"]) == (4, 4)
    assert api.get(LETTERS).json()["items"] == []
    assert statuses(api, dead) == ["failed"] * 4
    assert api.post(f"{LETTERS}:discard", {"filter": {}}).json()["matched"] == 0


@ON_BOTH
def test_buried_messages_are_among_them(api: Api, runtime: Runtime, new_job: Any) -> None:
    """One whose job can go on, and one that belongs to no job."""
    job = new_job("acme")
    orphan: Message[None] = Message("generate", "theirs", (), {}, {"account": "other"})
    runtime.broker.enqueue_once(Entry(orphan, "stray"))
    hand = Hand(runtime.broker, lane="generate")
    for lease in hand.claim(2):
        hand.settle(lease, "bury")
    move_undeliverable(runtime)

    found = {letter["account"]: letter for letter in api.get(LETTERS).json()["items"]}

    assert {account: letter["job_id"] for account, letter in found.items()} == {"acme": job["id"], "other": None}
    assert api.get(f"{LETTERS}/{found['acme']['id']}").json()["message"]["args"] == [job["steps"][0]["id"]]
    assert api.post(f"{LETTERS}/{found['acme']['id']}:replay").status_code == 202
    assert api.post(f"{LETTERS}/{found['other']['id']}:replay").json()["code"] == "job_not_retryable"
    assert api.delete(f"{LETTERS}/{found['other']['id']}").status_code == 204
    assert (api.get(LETTERS).json()["items"], statuses(api, [job])) == ([], ["queued"])


def test_a_job_that_cannot_go_on_is_skipped_and_stays(api: Api, bench: Bench, new_job: Any) -> None:
    job = new_job(unique_key="k")
    bench.fail(bench.start(job))
    new_job(unique_key="k")

    answer = api.post(f"{LETTERS}:replay", {"filter": {}}).json()

    assert (answer["matched"], answer["resolved"], answer["skipped"]) == (1, 0, 1)
    assert len(api.get(LETTERS).json()["items"]) == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "filter"),
        ({"filter": {"colour": "red"}}, "filter.colour"),
        ({"filter": {}, "per_second": 0}, "per_second"),
        ({"filter": {}, "dry_run": "yes"}, "dry_run"),
        ({"filter": {"account": ""}}, "filter.account"),
    ],
)
def test_a_wrong_selection_touches_nothing(
    api: Api, dead: list[dict[str, Any]], body: dict[str, Any], place: str
) -> None:
    answer = api.post(f"{LETTERS}:replay", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert ".".join(map(str, answer.json()["errors"][0]["loc"])) == f"body.{place}".removeprefix("body.")
    assert len(api.get(LETTERS).json()["items"]) == 4


def test_what_was_done_is_in_the_audit(api: Api, dead: list[dict[str, Any]]) -> None:
    api.post(f"{LETTERS}:discard", {"filter": {"account": "other"}})
    details = api.get("/v1/admin/audit").json()["items"][0]["details"]
    assert (details["filter"], details["resolved"]) == ({"account": "other"}, 1)
