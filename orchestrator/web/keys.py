"""An account's API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from tenants.errors import NotFound
from tenants.store import keys

from .auth import Access
from .models.accounts import KeyRequest, KeysQuery, KeyView, NewKeyView
from .models.base import Listing, Paging, Query
from .routing import Call, Reply, Route


def create_key(call: Call[Query, KeyRequest]) -> Reply:
    key, wanted = keys.make_key(), call.body

    def write(connection: Connection) -> dict[str, Any]:
        made = keys.create(
            connection,
            key,
            scope="account",
            account=call.account,
            name=wanted.name,
            expires_at=wanted.expires_at,
        )
        return dict(made)

    made = call.service.database.write(write)
    location = f"{call.request.scope['raw_path'].decode()}/{made['id']}"
    told = {name: made[name] for name in ("id", "name", "hint", "expires_at")}
    return Reply({**made, "key": key}, 201, {"Location": location}, audit={"before": None, "after": told})


def list_keys(call: Call[Paging, Any]) -> Reply:
    query = call.query
    rows, following = call.service.database.read(
        lambda connection: keys.page(connection, call.account, limit=query.limit, cursor=query.cursor)
    )
    return Reply({"items": [dict(row) for row in rows], "next_cursor": following})


def delete_key(call: Call[Query, Any]) -> Reply:
    call.service.database.write(lambda connection: keys.revoke(connection, call.account, call.params["id"]))
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


def _ended(ids: Sequence[str]) -> dict[str, Any]:
    return {"before": {"keys": sorted(ids)}, "after": None}


_ACCOUNT = "/v1/accounts/{account}"

ROUTES = [
    Route(
        "POST",
        f"{_ACCOUNT}/keys",
        create_key,
        Access.ADMIN,
        "Make a key for the account",
        {201: NewKeyView},
        "Keys",
        body=KeyRequest,
        body_required=False,
        creates=True,
        secret=True,
        headers=("Location",),
    ),
    Route(
        "GET",
        f"{_ACCOUNT}/keys",
        list_keys,
        Access.ADMIN,
        "List the account's keys",
        {200: Listing[KeyView]},
        "Keys",
        query=Paging,
    ),
    Route(
        "DELETE",
        f"{_ACCOUNT}/keys",
        delete_keys,
        Access.ADMIN,
        "End one key or all keys of the account",
        {204: None},
        "Keys",
        query=KeysQuery,
    ),
    Route("DELETE", f"{_ACCOUNT}/keys/{{id}}", delete_key, Access.ADMIN, "End a key", {204: None}, "Keys"),
]
