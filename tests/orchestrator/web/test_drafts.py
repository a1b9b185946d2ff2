"""Drafts over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from tenants.store.publishing import drafts, publications
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench


@pytest.fixture
def draft(bench: Bench, new_job: Any) -> dict[str, Any]:
    """A pending draft of `acme`'s."""
    owned = bench.start(new_job())
    row = bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=["a"]))
    return dict(row)


@ON_BOTH
def test_drafts_are_listed_and_read(api: Api, draft: dict[str, Any]) -> None:
    one = api.get(f"/v1/drafts/{draft['id']}")
    assert one.headers["etag"] == '"1"'
    shown = one.json()
    assert (shown["title"], shown["body"], shown["tags"], shown["publication"]) == ("Lanes", "# Lanes", ["a"], None)
    assert [each["id"] for each in api.get("/v1/drafts?account=acme&status=pending_publish").json()["items"]] == [
        draft["id"]
    ]
    assert api.get("/v1/drafts?status=published").json()["items"] == []
    assert api.get("/v1/drafts/nope").status_code == 404


@ON_BOTH
def test_a_draft_shows_its_publication(api: Api, bench: Bench, new_job: Any) -> None:
    owned = bench.start(new_job())
    bench.write(lambda c: publications.create_draft(c, owned, title="t", body="b", tags=[]))
    bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, owned, 1))
    bench.write(lambda c: publications.confirmed(c, owned, url="http://x/1", external_id=None))

    shown = api.get("/v1/drafts").json()["items"][0]

    assert shown["status"] == "published"
    assert (shown["publication"]["status"], shown["publication"]["url"]) == ("confirmed", "http://x/1")


@ON_BOTH
def test_a_change_needs_the_version_that_was_read(api: Api, draft: dict[str, Any]) -> None:
    path = f"/v1/drafts/{draft['id']}"

    bare = api.patch(path, {"title": "New"})
    assert (bare.status_code, bare.json()["code"]) == (428, "precondition_required")
    done = api.patch(path, {"title": "New", "tags": []}, headers={"If-Match": '"1"'})
    assert (done.status_code, done.json()["title"], done.json()["tags"]) == (200, "New", [])
    assert done.json()["body"] == "# Lanes"
    assert done.headers["etag"] == '"2"'
    for stale in ('"1"', 'W/"2"', "x", '"99"'):
        answer = api.patch(path, {"title": "Other"}, headers={"If-Match": stale})
        assert (answer.status_code, answer.json()["code"]) == (412, "stale_version"), stale
    assert api.patch(path, {"body": "x"}, headers={"If-Match": "*"}).json()["version"] == 3


def test_a_draft_that_is_out_cannot_be_changed(api: Api, bench: Bench, draft: dict[str, Any]) -> None:
    bench.write(lambda c: c.execute(update(drafts.drafts).values(status="publishing")))
    answer = api.patch(f"/v1/drafts/{draft['id']}", {"title": "x"}, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json()["code"]) == (409, "draft_not_pending")


@pytest.mark.parametrize(
    "body", [{}, {"title": ""}, {"title": None}, {"colour": 1}, {"tags": "a"}, {"status": "published"}, {"version": 9}]
)
def test_a_wrong_change_is_422(api: Api, draft: dict[str, Any], body: dict[str, Any]) -> None:
    answer = api.patch(f"/v1/drafts/{draft['id']}", body, headers={"If-Match": '"1"'})
    assert answer.status_code == 422
    assert api.get(f"/v1/drafts/{draft['id']}").json()["version"] == 1
