"""Erasures of accounts: request one, and see what was removed. The loop `eraser` does the work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import Connection

from tenants.store.removal import erasures as store

from ..http.auth import Access
from ..http.models import Listing, Query
from ..http.routing import Call, Reply, Route
from .models.erasures import EraseQuery, ErasureBegun, ErasuresQuery, ErasureView


def erase(call: Call[EraseQuery, Any]) -> Reply:
    force, caller = call.query.force, call.caller
    erasure_id = call.service.database.write(
        lambda connection: store.begin(
            connection, call.account, force=force, requested_by=f"{caller.scope}:{caller.key_id}"
        )
    )
    call.service.runtime.settings_sync.sync_account(call.account)
    return Reply(
        {"erasure_id": erasure_id},
        202,
        {"Location": f"/v1/admin/erasures/{erasure_id}"},
        audit={"before": {"account": call.account}, "after": {"erasure": erasure_id, "force": force}},
    )


def get_erasure(call: Call[Query, Any]) -> Reply:
    def read(connection: Connection) -> dict[str, Any]:
        row = store.fetch(connection, call.params["id"])
        return _view(row, _running(connection, row))

    return Reply(call.service.database.read(read))


def list_erasures(call: Call[ErasuresQuery, Any]) -> Reply:
    query = call.query

    def read(connection: Connection) -> dict[str, Any]:
        rows, following = store.page(connection, account=query.account, limit=query.limit, cursor=query.cursor)
        return {"items": [_view(row, _running(connection, row)) for row in rows], "next_cursor": following}

    return Reply(call.service.database.read(read))


def _running(connection: Connection, row: Mapping[Any, Any]) -> int:
    return store.count_running(connection, row["account"]) if row["status"] == "stopping" else 0


def _view(row: Mapping[Any, Any], running: int) -> dict[str, Any]:
    return {**row, "running": running, "removed": {**dict.fromkeys(store.kinds(), 0), **row["removed"]}}


_route = partial(Route, tag="Accounts", access=Access.ADMIN)

ROUTES = [
    _route(
        "DELETE",
        "/v1/accounts/{account}",
        erase,
        "Erase the account and all its data",
        {202: ErasureBegun},
        query=EraseQuery,
        codes=("account_busy",),
        headers=("Location",),
        description=(
            "The account is suspended at once and takes nothing new (409 `account_busy`) until it is erased; "
            "after that an account of the same name starts as new. A second call gives the same erasure."
        ),
    ),
    _route(
        "GET", "/v1/admin/erasures", list_erasures, "List erasures", {200: Listing[ErasureView]}, query=ErasuresQuery
    ),
    _route(
        "GET",
        "/v1/admin/erasures/{id}",
        get_erasure,
        "Get an erasure: its progress, and what was removed",
        {200: ErasureView},
        description="It stays as proof. Only it and the audit still name the account.",
    ),
]
