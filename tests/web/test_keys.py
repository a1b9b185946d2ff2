"""Keys: their scope, end, last use, and how one is replaced without a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.runtime import Runtime
from tenants.columns import db_now
from tenants.models import ApiKey
from tests.web.conftest import ON_BOTH, Api

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
def test_a_rotation_keeps_to_what_it_is_told(api: Api) -> None:
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
    from tests.web.held import rows

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
