"""API keys of accounts and with scope admin: the same calls below an account's path and below `/v1/admin`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection

from tenants.errors import NotFound
from tenants.store.accounts import keys

from ..http.auth import Access
from ..http.models import Listing, NamePaging, Query
from ..http.routing import Call, Reply, Route
from .models.accounts import KeyRequest, KeysQuery, KeyView, NewKeyView, RotationRequest


def create_key(call: Call[Query, KeyRequest]) -> Reply:
    key, wanted = keys.make_key(), call.body

    def write(connection: Connection) -> Reply:
        account = _account_of(call)
        scope: Literal["admin", "account"] = "admin" if account is None else "account"
        made = keys.create(
            connection, key, scope=scope, account=account, name=wanted.name, expires_at=wanted.expires_at
        )
        path = call.request.scope["raw_path"].decode()
        return _created(call, connection, path, made, key, {"before": None, "after": _audit_of(made)})

    return call.service.database.write(write)


def rotate_key(call: Call[Query, RotationRequest]) -> Reply:
    key, wanted, old = keys.make_key(), call.body, call.params["id"]

    def write(connection: Connection) -> Reply:
        made = keys.rotate(
            connection, _account_of(call), old, key, overlap_seconds=wanted.overlap, expires_at=wanted.expires_at
        )
        path = call.request.scope["raw_path"].decode().rpartition("/")[0]
        audit = {"before": {"keys": [old]}, "after": {**_audit_of(made), "overlap": wanted.overlap}}
        return _created(call, connection, path, made, key, audit)

    return call.service.database.write(write)


def _created(
    call: Call[Any, Any], connection: Connection, path: str, made: Mapping[Any, Any], key: str, audit: dict[str, Any]
) -> Reply:
    reply = Reply({**made, "key": key}, 201, {"Location": f"{path}/{made['id']}"}, audit=audit)
    call.keep(connection, reply)
    return reply


def _account_of(call: Call[Any, Any]) -> str | None:
    """The account of the path; None below `/v1/admin`."""
    return call.params.get("account")


def _audit_of(made: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: made[name] for name in ("id", "name", "hint", "expires_at")}


def list_keys(call: Call[NamePaging, Any]) -> Reply:
    query = call.query
    rows, following = call.service.database.read(
        lambda connection: keys.page(connection, _account_of(call), limit=query.limit, cursor=query.cursor)
    )
    return Reply({"items": [dict(row) for row in rows], "next_cursor": following})


def delete_key(call: Call[Query, Any]) -> Reply:
    call.service.database.write(lambda connection: keys.revoke(connection, _account_of(call), call.params["id"]))
    return Reply(status=204, audit=_ended([call.params["id"]]))


def delete_keys(call: Call[KeysQuery, Any]) -> Reply:
    only = call.query.id

    def write(connection: Connection) -> Sequence[str]:
        if only is not None:
            keys.revoke(connection, call.account, only)
            return [only]
        ended = keys.revoke_all(connection, call.account)
        if not ended:
            raise NotFound(f"account {call.account!r} has no keys")
        return ended

    return Reply(status=204, audit=_ended(call.service.database.write(write)))


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the key of the path is valid and belongs to the account of the path."""
    call.service.database.read(lambda connection: keys.fetch_valid(connection, _account_of(call), call.params["id"]))


def _ended(ids: Sequence[str]) -> dict[str, Any]:
    return {"before": {"keys": sorted(ids)}, "after": None}


_OF_ACCOUNT, _OF_ADMINS = "/v1/accounts/{account}/keys", "/v1/admin/keys"
_ROTATION = (
    "The new key has the old one's scope and name, and its lifetime unless `expires_at` is given. The old key stays "
    "valid for `overlap` seconds, so that its holder can change over without an outage."
)


_route = partial(Route, tag="Keys", access=Access.ADMIN)


def _routes(path: str, owner: str) -> list[Route]:
    one = f"{path}/{{id}}"
    return [
        _route(
            "POST",
            path,
            create_key,
            f"Make a key {owner}",
            {201: NewKeyView},
            body=KeyRequest,
            body_required=False,
            creates=True,
            secret=True,
            headers=("Location",),
        ),
        _route("GET", path, list_keys, f"List the keys {owner}", {200: Listing[KeyView]}, query=NamePaging),
        _route("DELETE", one, delete_key, f"End a key {owner}", {204: None}),
        _route(
            "POST",
            f"{one}:rotate",
            rotate_key,
            f"Replace a key {owner}",
            {201: NewKeyView},
            body=RotationRequest,
            body_required=False,
            creates=True,
            secret=True,
            headers=("Location",),
            codes=("not_found",),
            exists=exists,
            description=_ROTATION,
        ),
    ]


ROUTES = [
    *_routes(_OF_ACCOUNT, "of the account"),
    _route(
        "DELETE", _OF_ACCOUNT, delete_keys, "Revoke one key or all keys of the account", {204: None}, query=KeysQuery
    ),
    *_routes(_OF_ADMINS, "with scope admin"),
]
