"""What the contract says of each route of keys, targets, sessions and webhook secrets."""

from __future__ import annotations

from tests.orchestrator.web.contract.world import World, route


@route("POST /v1/accounts/{account}/keys")
def test_a_new_key_opens_its_account(world: World) -> None:
    answer = world.api.post("/v1/accounts/acme/keys", {"name": "shop"})
    assert (answer.status_code, answer.json()["scope"], answer.json()["account"]) == (201, "account", "acme")
    assert world.api.with_key(answer.json()["key"]).get("/v1/accounts/acme").status_code == 200


@route("GET /v1/accounts/{account}/keys")
def test_keys_are_listed_without_their_secret(world: World) -> None:
    made = world.api.post("/v1/accounts/acme/keys", {"name": "shop"}).json()
    (shown,) = world.api.get("/v1/accounts/acme/keys").json()["items"]
    assert (shown["id"], shown["name"], shown["last_used_at"]) == (made["id"], "shop", None)
    assert made["key"] not in str(shown)


@route("DELETE /v1/accounts/{account}/keys")
def test_all_keys_of_an_account_are_revoked(world: World) -> None:
    made = [world.api.post("/v1/accounts/acme/keys").json()["key"] for _ in range(2)]
    assert world.api.delete("/v1/accounts/acme/keys").status_code == 204
    assert {world.api.with_key(key).get("/v1/jobs").status_code for key in made} == {401}


@route("DELETE /v1/accounts/{account}/keys/{id}")
def test_a_revoked_key_opens_nothing(world: World) -> None:
    made = world.api.post("/v1/accounts/acme/keys").json()
    assert world.api.delete(f"/v1/accounts/acme/keys/{made['id']}").status_code == 204
    assert world.api.with_key(made["key"]).get("/v1/jobs").status_code == 401


@route("POST /v1/accounts/{account}/keys/{id}:rotate")
def test_a_rotated_key_and_its_successor_are_valid_for_the_overlap(world: World) -> None:
    old = world.api.post("/v1/accounts/acme/keys", {"name": "shop"}).json()
    answer = world.api.post(f"/v1/accounts/acme/keys/{old['id']}:rotate", {"overlap": 60})
    assert (answer.status_code, answer.json()["name"], answer.json()["account"]) == (201, "shop", "acme")
    for key in (old["key"], answer.json()["key"]):
        assert world.api.with_key(key).get("/v1/accounts/acme").status_code == 200, "both open for a while"


@route("POST /v1/admin/keys")
def test_a_new_admin_key_opens_every_account(world: World) -> None:
    made = world.api.post("/v1/admin/keys", {"name": "operator"}).json()
    assert (made["scope"], made["account"]) == ("admin", None)
    assert world.api.with_key(made["key"]).get("/v1/accounts").status_code == 200


@route("GET /v1/admin/keys")
def test_admin_keys_are_listed_without_their_secret(world: World) -> None:
    made = world.api.post("/v1/admin/keys", {"name": "operator"}).json()
    (shown,) = world.api.get("/v1/admin/keys").json()["items"]
    assert shown["id"] == made["id"]
    assert made["key"] not in str(shown)


@route("DELETE /v1/admin/keys/{id}")
def test_a_revoked_admin_key_opens_nothing(world: World) -> None:
    made = world.api.post("/v1/admin/keys").json()
    assert world.api.delete(f"/v1/admin/keys/{made['id']}").status_code == 204
    assert world.api.with_key(made["key"]).get("/v1/accounts").status_code == 401


@route("POST /v1/admin/keys/{id}:rotate")
def test_a_rotated_admin_key_is_replaced_at_once_without_overlap(world: World) -> None:
    old = world.api.post("/v1/admin/keys").json()
    new = world.api.post(f"/v1/admin/keys/{old['id']}:rotate", {"overlap": 0}).json()
    assert world.api.with_key(old["key"]).get("/v1/accounts").status_code == 401
    assert world.api.with_key(new["key"]).get("/v1/accounts").status_code == 200


TARGET = {"publisher": "demo", "base_url": "http://127.0.0.1:9999", "options": {"blog": "a"}}


@route("PUT /v1/accounts/{account}/target")
def test_a_target_is_set_and_an_unsafe_address_is_refused(world: World) -> None:
    assert world.api.put("/v1/accounts/acme/target", TARGET).json() == TARGET
    assert world.api.put("/v1/accounts/acme/target", {**TARGET, "base_url": "http://10.0.0.1"}).json()["code"] == (
        "unsafe_url"
    )


@route("GET /v1/accounts/{account}/target")
def test_a_target_is_shown_once_it_is_set(world: World) -> None:
    assert world.api.get("/v1/accounts/acme/target").status_code == 404
    world.api.put("/v1/accounts/acme/target", TARGET)
    assert world.api.get("/v1/accounts/acme/target").json() == TARGET


@route("DELETE /v1/accounts/{account}/target")
def test_a_deleted_target_is_gone(world: World) -> None:
    world.api.put("/v1/accounts/acme/target", TARGET)
    assert world.api.delete("/v1/accounts/acme/target").status_code == 204
    assert world.api.get("/v1/accounts/acme").json()["target"] is None


SESSION = {"credentials": {"username": "alice", "password": "hunter2-hunter2"}}


@route("PUT /v1/accounts/{account}/session")
def test_credentials_are_kept_and_never_shown(world: World) -> None:
    answer = world.api.put("/v1/accounts/acme/session", SESSION)
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert "hunter2" not in answer.text


@route("GET /v1/accounts/{account}/session")
def test_the_state_of_a_session_is_shown(world: World) -> None:
    assert world.api.get("/v1/accounts/acme/session").json() == {
        "status": "none",
        "updated_at": None,
        "expires_at": None,
    }
    world.api.put("/v1/accounts/acme/session", {"storage_state": {"cookies": []}, "expires_at": "2001-01-01T00:00:00Z"})
    assert world.api.get("/v1/accounts/acme/session").json()["status"] == "expired"


@route("DELETE /v1/accounts/{account}/session")
def test_a_session_is_deleted_once(world: World) -> None:
    world.api.put("/v1/accounts/acme/session", SESSION)
    assert world.api.delete("/v1/accounts/acme/session").status_code == 204
    assert world.api.delete("/v1/accounts/acme/session").status_code == 404


@route("POST /v1/accounts/{account}/webhook-secret")
def test_a_webhook_secret_is_shown_once_and_audited_without_it(world: World) -> None:
    answer = world.api.post("/v1/accounts/acme/webhook-secret")
    assert answer.status_code == 201
    assert answer.json()["secret"].startswith("whsec_")
    shown = world.api.get("/v1/accounts/acme/webhook-secret").json()
    again = world.api.post("/v1/accounts/acme/webhook-secret").json()
    second, first = (each["details"] for each in world.api.get("/v1/admin/audit").json()["items"])
    assert (first["before"], second["before"]) == (None, shown)
    assert second["after"] == {name: again[name] for name in shown}


@route("GET /v1/accounts/{account}/webhook-secret")
def test_the_age_of_a_webhook_secret_is_shown_without_it(world: World) -> None:
    world.api.post("/v1/accounts/acme/webhook-secret")
    shown = world.api.get("/v1/accounts/acme/webhook-secret").json()
    assert shown["created_at"]
    assert "secret" not in shown
