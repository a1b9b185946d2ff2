"""Approval over HTTP: what brings a job back to `awaiting_approval`, and which version of a draft is approved."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tenants.errors import DraftChanged
from tenants.store.publishing import publications
from tenants.store.steps import finish as finish_steps
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench


@pytest.fixture
def awaiting(api: Api, bench: Bench, new_job: Any) -> dict[str, Any]:
    """A job with a draft whose last step awaits approval."""
    owned = bench.start(new_job(approval=True))
    bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=[]))
    bench.complete(owned, {})
    job: dict[str, Any] = api.get(f"/v1/jobs/{owned.job_id}").json()
    assert job["status"] == "awaiting_approval"
    return job


def draft_of(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get("/v1/drafts").json()["items"][0]
    return found


@ON_BOTH
@pytest.mark.parametrize("verb", ["cancel", "reject"])
def test_a_retry_comes_back_to_approval(api: Api, make_key: Any, awaiting: dict[str, Any], verb: str) -> None:
    own, path = api.with_key(make_key("acme")), f"/v1/jobs/{awaiting['id']}"
    assert own.post(f"{path}:{verb}").json()["status"] == "cancelled"
    assert draft_of(api)["status"] == ("discarded" if verb == "reject" else "pending_publish")
    job = own.post(f"{path}:retry").json()
    assert (job["status"], job["current_step"]) == ("awaiting_approval", "post")
    assert [step["status"] for step in job["steps"]] == ["completed", "awaiting_approval"]
    assert [why["code"] for why in own.get(f"{path}/why").json()["items"]] == ["awaiting_approval"]
    assert draft_of(api)["status"] == "pending_publish"
    assert own.post(f"{path}:approve").json()["status"] == "queued"


@ON_BOTH
def test_an_approved_job_goes_on_after_a_cancel_until_its_draft_is_edited(api: Api, awaiting: dict[str, Any]) -> None:
    path, draft = f"/v1/jobs/{awaiting['id']}", draft_of(api)
    api.post(f"{path}:approve")
    api.post(f"{path}:cancel")
    assert api.post(f"{path}:retry").json()["status"] == "queued", "this very draft was approved"
    edited = api.patch(f"/v1/drafts/{draft['id']}", {"title": "Other"}, headers={"If-Match": '"1"'})
    assert edited.status_code == 200
    job = api.get(path).json()
    assert (job["status"], job["steps"][1]["status"]) == ("awaiting_approval", "awaiting_approval")
    assert api.post(f"{path}:approve").json()["status"] == "queued"


@ON_BOTH
def test_a_version_is_approved_only_if_it_is_the_drafts(api: Api, awaiting: dict[str, Any]) -> None:
    path, draft = f"/v1/jobs/{awaiting['id']}", draft_of(api)
    api.patch(f"/v1/drafts/{draft['id']}", {"title": "Other"}, headers={"If-Match": '"1"'})
    for stale in ('"1"', "x", 'W/"2"'):
        answer = api.post(f"{path}:approve", headers={"If-Match": stale})
        assert (answer.status_code, answer.json()["code"]) == (412, "stale_version")
    assert api.get(path).json()["status"] == "awaiting_approval"
    assert api.post(f"{path}:approve", headers={"If-Match": '"2"'}).json()["status"] == "queued"


@ON_BOTH
def test_an_edit_while_the_last_step_runs_refuses_its_publish(api: Api, bench: Bench, awaiting: dict[str, Any]) -> None:
    path, draft = f"/v1/jobs/{awaiting['id']}", draft_of(api)
    owned = bench.start(api.post(f"{path}:approve").json())
    bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    api.patch(f"/v1/drafts/{draft['id']}", {"title": "Other"}, headers={"If-Match": '"1"'})
    with pytest.raises(DraftChanged):
        bench.write(lambda c: publications.load_draft_for_step(c, owned))
    for version in (1, 2):
        with pytest.raises(DraftChanged):
            bench.write(partial(publications.started, owned=owned, version=version))
    error = {"code": "publish_failed", "message": "the draft was edited"}
    again = bench.write(lambda c: finish_steps.retry(c, owned, outcome="failed", error=error, delay_seconds=0))
    assert not again, "nothing comes back before it is approved"
    job = api.get(path).json()
    assert (job["status"], job["steps"][1]["status"]) == ("awaiting_approval", "awaiting_approval")
    assert bench.start(api.post(f"{path}:approve").json()).attempt == 1


@ON_BOTH
def test_a_replay_of_an_edited_draft_comes_back_to_approval(api: Api, bench: Bench, awaiting: dict[str, Any]) -> None:
    path, draft = f"/v1/jobs/{awaiting['id']}", draft_of(api)
    bench.fail(bench.start(api.post(f"{path}:approve").json()))
    api.patch(f"/v1/drafts/{draft['id']}", {"body": "Other"}, headers={"If-Match": '"1"'})
    letter = api.get("/v1/admin/dead-letters").json()["items"][0]
    replayed = api.post(f"/v1/admin/dead-letters/{letter['id']}:replay")
    assert (replayed.status_code, replayed.json()["status"]) == (202, "awaiting_approval")
    twice = api.post(f"/v1/admin/dead-letters/{letter['id']}:replay")
    assert (twice.status_code, twice.json()["code"]) == (409, "job_not_retryable")
