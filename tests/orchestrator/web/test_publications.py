"""Unknown outcomes settled by hand over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.loops.gauges import GaugeLoop
from orchestrator.runtime import Runtime
from tenants.store.publishing import publications
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench

NOBODYS_ID = "0199c0de-0000-7000-8000-000000000000"
URL = "https://blog.example/lanes"


@pytest.fixture
def unknown(api: Api, bench: Bench, new_job: Any) -> dict[str, Any]:
    """A draft whose publish step failed with an unknown outcome, and whose job has failed."""
    job = new_job()
    owned = bench.start(job)
    bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=[]))
    bench.complete(owned, {})
    owned = bench.start(api.get(f"/v1/jobs/{job['id']}").json())
    bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, owned, 1))
    bench.write(lambda c: publications.unknown(c, owned, "the browser died"))
    bench.fail(owned, "outcome_unknown")
    draft: dict[str, Any] = api.get("/v1/drafts?status=needs_review").json()["items"][0]
    assert draft["publication"]["status"] == "unknown"
    return draft


@ON_BOTH
def test_an_unknown_outcome_is_counted_and_logged_until_it_is_settled(
    caplog: pytest.LogCaptureFixture, api: Api, runtime: Runtime, unknown: dict[str, Any]
) -> None:
    reported = [record.getMessage() for record in caplog.get_records("setup") if record.levelname == "WARNING"]
    expected = f"job {unknown['job_id']}: the outcome of its publish is unknown; check it"
    assert [text for text in reported if expected in text]
    GaugeLoop(runtime).run_once()
    assert "onelane_drafts_needing_review 1.0" in api.get("/metrics").text
    api.post(f"/v1/admin/publications/{unknown['publication']['id']}:confirm", {"url": URL})
    GaugeLoop(runtime).run_once()
    assert "onelane_drafts_needing_review 0.0" in api.get("/metrics").text


@ON_BOTH
def test_a_post_that_is_there_completes_without_another(api: Api, bench: Bench, unknown: dict[str, Any]) -> None:
    path = f"/v1/admin/publications/{unknown['publication']['id']}"

    answer = api.post(f"{path}:confirm", {"url": URL, "external_id": "7"})

    assert (answer.status_code, answer.json()["status"], answer.json()["url"]) == (200, "confirmed", URL)
    assert api.get(f"/v1/drafts/{unknown['id']}").json()["status"] == "published"
    job = api.get(f"/v1/jobs/{unknown['job_id']}").json()
    assert (job["status"], job["error"]) == ("queued", None)
    assert [step["status"] for step in job["steps"]] == ["completed", "queued"]
    assert api.get("/v1/admin/dead-letters").json()["items"] == []
    owned = bench.start(job)
    entry = bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    assert (entry["status"], entry["external_id"]) == ("confirmed", "7")


@ON_BOTH
def test_a_post_that_is_not_there_is_published_anew(api: Api, unknown: dict[str, Any]) -> None:
    answer = api.post(f"/v1/admin/publications/{unknown['publication']['id']}:retry")

    assert (answer.status_code, answer.json()["status"]) == (200, "intent")
    assert api.get(f"/v1/drafts/{unknown['id']}").json()["status"] == "pending_publish"
    assert api.get(f"/v1/jobs/{unknown['job_id']}").json()["status"] == "queued"


@ON_BOTH
@pytest.mark.parametrize("verb", ["confirm", "retry"])
def test_it_is_settled_once(api: Api, unknown: dict[str, Any], verb: str) -> None:
    path = f"/v1/admin/publications/{unknown['publication']['id']}"
    api.post(f"{path}:confirm", {"url": URL})

    again = api.post(f"{path}:{verb}", {"url": URL} if verb == "confirm" else None)

    assert (again.status_code, again.json()["code"]) == (409, "publication_not_unknown")
    assert "confirmed" in again.json()["detail"]


@pytest.mark.parametrize(
    "body", [{}, {"url": "javascript:alert(1)"}, {"url": "https://x y"}, {"url": URL, "id": 1}, {"url": 7}]
)
def test_what_cannot_be_an_address_is_refused(api: Api, unknown: dict[str, Any], body: dict[str, Any]) -> None:
    path = f"/v1/admin/publications/{unknown['publication']['id']}"

    answer = api.post(f"{path}:confirm", body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert api.get(f"/v1/drafts/{unknown['id']}").json()["status"] == "needs_review"


def test_a_publication_that_is_not_there_is_404(api: Api) -> None:
    for verb, body in (("confirm", {"url": URL}), ("retry", None)):
        answer = api.post(f"/v1/admin/publications/{NOBODYS_ID}:{verb}", body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_who_settled_it_is_in_the_audit(api: Api, unknown: dict[str, Any]) -> None:
    api.post(f"/v1/admin/publications/{unknown['publication']['id']}:confirm", {"url": URL})

    entry = api.get("/v1/admin/audit").json()["items"][0]

    assert entry["details"]["before"] == {"status": "unknown"}
    assert entry["details"]["after"]["url"] == URL
