"""What the contract says of each route of drafts and publications."""

from __future__ import annotations

from tests.orchestrator.web.contract.world import World, route


@route("GET /v1/drafts")
def test_drafts_are_listed_by_account_and_status(world: World) -> None:
    draft = world.draft()
    assert [each["id"] for each in world.api.get("/v1/drafts?account=acme&status=pending_publish").json()["items"]] == [
        draft["id"]
    ]
    assert world.api.get("/v1/drafts?status=published").json()["items"] == []


@route("GET /v1/drafts/{id}")
def test_a_draft_is_shown_with_its_version_as_the_etag(world: World) -> None:
    answer = world.api.get(f"/v1/drafts/{world.draft()['id']}")
    draft = answer.json()
    assert (draft["title"], draft["body"], draft["tags"], draft["version"]) == ("Lanes", "# Lanes", ["a"], 1)
    assert (draft["status"], draft["publication"], answer.headers["etag"]) == ("pending_publish", None, '"1"')


@route("PATCH /v1/drafts/{id}")
def test_a_draft_is_changed_only_in_the_version_that_the_caller_saw(world: World) -> None:
    path = f"/v1/drafts/{world.draft()['id']}"
    assert world.api.patch(path, {"title": "New"}).json()["code"] == "precondition_required"
    changed = world.api.patch(path, {"title": "New"}, headers={"If-Match": '"1"'}).json()
    assert (changed["title"], changed["body"], changed["version"]) == ("New", "# Lanes", 2)
    assert world.api.patch(path, {"title": "Old"}, headers={"If-Match": '"1"'}).json()["code"] == "stale_version"


@route("POST /v1/admin/publications/{id}:confirm")
def test_an_unknown_publication_is_confirmed_with_its_address(world: World) -> None:
    path = f"/v1/admin/publications/{world.unknown_publication()}:confirm"
    answer = world.api.post(path, {"url": "https://blog.example/1", "external_id": "1"}).json()
    assert (answer["status"], answer["url"], answer["external_id"]) == ("confirmed", "https://blog.example/1", "1")


@route("POST /v1/admin/publications/{id}:retry")
def test_an_unknown_publication_is_tried_again(world: World) -> None:
    answer = world.api.post(f"/v1/admin/publications/{world.unknown_publication()}:retry").json()
    assert (answer["status"], answer["url"]) == ("intent", None)
