"""Keys: their scope, end, last use, and how one is replaced without a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update

from orchestrator.runtime import Runtime
from orchestrator.web.app import ROUTES
from tenants.database.columns import db_now
from tenants.database.models import ApiKey, new_id
from tests.orchestrator.web.conftest import ON_BOTH, Api

OF_ACME, OF_ADMINS = "/v1/accounts/acme/keys", "/v1/admin/keys"
table = ApiKey.__table__


def opens(api: Api, key: str) -> bool:
    status: int = api.with_key(key).get("/v1/jobs").status_code
    assert status in (200, 401)
    return status == 200


def end_now(runtime: Runtime, key_id: str) -> None:
    """Let the time pass until the key ends."""
    runtime.database.write(lambda c: c.execute(update(table).where(table.c.id == key_id).values(expires_at=db_now(-1))))


@ON_BOTH
@pytest.mark.parametrize("path", [OF_ACME, OF_ADMINS])
def test_a_key_is_replaced_without_a_gap(api: Api, runtime: Runtime, path: str) -> None:
    old = api.post(path, {"name": "backend"}).json()
    assert opens(api, old["key"])

    answer = api.post(f"{path}/{old['id']}:rotate")

    new = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"{path}/{new['id']}")
    assert (new["name"], new["scope"], new["account"]) == ("backend", old["scope"], old["account"])
    assert new["key"] != old["key"]
    assert opens(api, old["key"]), "both open meanwhile"
    assert opens(api, new["key"])
    listed = {each["id"]: each for each in api.get(path).json()["items"]}
    ends = datetime.fromisoformat(listed[old["id"]]["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < ends <= timedelta(hours=24)
    assert listed[new["id"]]["expires_at"] is None
    assert listed[old["id"]]["last_used_at"] is not None
    end_now(runtime, old["id"])
    assert not opens(api, old["key"])
    assert opens(api, new["key"])
    assert api.post(f"{path}/{old['id']}:rotate").json()["code"] == "not_found"


@ON_BOTH
def test_a_rotation_uses_the_given_overlap(api: Api) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    old = api.post(OF_ACME, {"expires_at": ends.isoformat()}).json()

    new = api.post(f"{OF_ACME}/{old['id']}:rotate", {"overlap": 7200}).json()
    listed = {each["id"]: each for each in api.get(OF_ACME).json()["items"]}
    assert datetime.fromisoformat(listed[old["id"]]["expires_at"]) == ends, "it does not live longer for it"
    life = datetime.fromisoformat(new["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert timedelta(minutes=59) < life <= timedelta(hours=1, seconds=5), "a life as long as the old one's"

    last = api.post(
        f"{OF_ACME}/{new['id']}:rotate", {"overlap": 0, "expires_at": (ends + timedelta(days=9)).isoformat()}
    ).json()
    assert not opens(api, new["key"])
    assert opens(api, last["key"])
    assert datetime.fromisoformat(last["expires_at"]) == ends + timedelta(days=9)


def test_a_repeat_gives_the_same_key_and_keeps_it_sealed(api: Api, runtime: Runtime) -> None:
    old = api.post(OF_ACME).json()
    path, headers = f"{OF_ACME}/{old['id']}:rotate", {"Idempotency-Key": "once"}
    first, again = (api.post(path, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(api.get(OF_ACME).json()["items"]) == 2
    from tests.orchestrator.web.held import rows

    assert first.json()["key"] not in repr(rows(runtime.database))


@pytest.mark.parametrize(("body", "place"), [({"overlap": -1}, "overlap"), ({"overlap": 1e9}, "overlap")])
def test_a_wrong_rotation_changes_nothing(api: Api, body: dict[str, Any], place: str) -> None:
    old = api.post(OF_ACME).json()
    answer = api.post(f"{OF_ACME}/{old['id']}:rotate", body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, [place])
    assert len(api.get(OF_ACME).json()["items"]) == 1


def test_keys_of_admins_and_of_accounts_are_apart(api: Api) -> None:
    own, admin = api.post(OF_ACME).json(), api.post(OF_ADMINS, {"name": "ops"}).json()
    assert (admin["scope"], admin["account"]) == ("admin", None)
    assert [each["id"] for each in api.get(OF_ADMINS).json()["items"]] == [admin["id"]]
    assert [each["id"] for each in api.get(OF_ACME).json()["items"]] == [own["id"]]
    for path, other in ((OF_ACME, admin["id"]), (OF_ADMINS, own["id"]), ("/v1/accounts/b/keys", own["id"])):
        assert api.delete(f"{path}/{other}").status_code == 404
        assert api.post(f"{path}/{other}:rotate").status_code == 404
    assert api.with_key(admin["key"]).get(OF_ADMINS).status_code == 200
    assert api.with_key(own["key"]).get(OF_ADMINS).status_code == 403
    assert api.delete(f"{OF_ADMINS}/{admin['id']}").status_code == 204
    assert not opens(api, admin["key"])
    noted = api.get("/v1/admin/audit").json()["items"]
    assert all(each["key"] not in repr(noted) for each in (own, admin))


def test_the_second_page_of_keys_and_of_long_account_names(api: Api) -> None:
    """The cursor of a list by id was never taken, nor that of an account whose id was long."""
    made = [api.post("/v1/accounts/acme/keys", {"name": str(number)}).json()["id"] for number in range(3)]
    first = api.get("/v1/accounts/acme/keys?limit=2").json()
    second = api.get(f"/v1/accounts/acme/keys?limit=2&cursor={first['next_cursor']}").json()
    assert [each["id"] for each in [*first["items"], *second["items"]]] == made[::-1]
    assert second["next_cursor"] is None

    for name in ("\N{HONEYBEE}" * 200, "\N{HONEYBEE}" * 199):
        assert api.put(f"/v1/accounts/{quote(name, safe='')}/limits", {}).status_code == 200
    page = api.get("/v1/accounts?limit=2").json()
    assert [len(each["account"]) for each in page["items"]] == [4, 199]
    assert api.get(f"/v1/accounts?cursor={page['next_cursor']}").json()["items"][0]["account"] == "\N{HONEYBEE}" * 200
    assert len(api.get(f"/v1/accounts?limit=1&cursor={page['next_cursor']}").json()["items"]) == 1


@pytest.mark.parametrize("path", [OF_ACME, OF_ADMINS])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
def test_to_rotate_a_key_that_is_not_there_is_404_before_415(api: Api, path: str, headers: dict[str, str]) -> None:
    headers = {"Content-Type": "text/plain", **headers}
    answer = api("POST", f"{path}/{new_id()}:rotate", content="{", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_repeated_rotation_gives_its_answer_after_the_old_key_ended(api: Api) -> None:
    old = api.post(OF_ACME, {}).json()["id"]
    path, once = f"{OF_ACME}/{old}:rotate", {"headers": {"Idempotency-Key": "k"}}
    first = api.post(path, {"overlap": 0}, **once)
    assert api.post(path, {"overlap": 0}).status_code == 404
    again = api.post(path, {"overlap": 0}, **once)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"


def test_every_route_with_a_body_looks_first_whether_its_thing_is_there() -> None:
    """404 comes before 413, 415, 400 and 422: by `exists`, unless the account comes into being with the call."""
    for route in ROUTES:
        if route.body_model is not None and set(route.template.parameters) - {"account"}:
            assert route.exists is not None, f"{route.method} {route.path}"
