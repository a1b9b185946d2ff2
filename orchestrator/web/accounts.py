"""Accounts: look, limit, pause, resume, drain, suspend."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from tenants.account import AccountLimits
from tenants.store import accounts as store

from .auth import Access
from .models.accounts import AccountsQuery, AccountSummary, AccountView, usage_view
from .models.base import Listing, Query
from .routing import Call, Reply, Route


def list_accounts(call: Call[AccountsQuery, Any]) -> Reply:
    query = call.query

    def read(connection: Connection) -> dict[str, Any]:
        rows, following = store.page(connection, q=query.q, status=query.status, limit=query.limit, cursor=query.cursor)
        items = [
            {
                "account": row["id"],
                "status": row["status"],
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in rows
        ]
        return {"items": items, "next_cursor": following}

    return Reply(call.service.database.read(read))


def get_account(call: Call[Query, Any]) -> Reply:
    return Reply(account_view(call, call.account))


def account_view(call: Call[Any, Any], account: str) -> dict[str, Any]:
    """The whole account.

    Raises:
        NotFound: it has not come into being.
    """

    def read(connection: Connection) -> tuple[Any, dict[str, dict[str, Any]], list[dict[str, Any]]]:
        row = store.fetch(connection, account)
        return row, store.queues(connection, account), store.usage_of(connection, account)

    row, queues, days = call.service.database.read(read)
    names = sorted(set(call.service.lanes()) | set(queues))
    return {
        "account": row["id"],
        "status": row["status"],
        "limits": AccountLimits.from_json(row["limits"]).as_json(),
        "lanes": [
            {"lane": name, "queue": f"{name}_{account}", **queues.get(name, store.empty_queue())} for name in names
        ],
        "session": call.service.sessions.describe(account),
        "target": row["target"],
        "usage": usage_view(days, datetime.now(UTC).date().isoformat()),
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


_ACCOUNT = "/v1/accounts/{account}"

ROUTES = [
    Route(
        "GET",
        "/v1/accounts",
        list_accounts,
        Access.ADMIN,
        "List accounts",
        {200: Listing[AccountSummary]},
        "Accounts",
        query=AccountsQuery,
        description="In the order of their ids, because they have no number of their own.",
    ),
    Route("GET", _ACCOUNT, get_account, Access.OWN, "One account", {200: AccountView}, "Accounts"),
]
