"""Accounts: list, limit, pause, resume, drain, suspend."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection

from tenants import webhooks
from tenants.account import AccountLimits, parse_account
from tenants.errors import Fault, InvalidAccount, InvalidInput
from tenants.store.accounts import accounts as store
from tenants.store.accounts import circuits, usage

from ..http.auth import Access
from ..http.models import Listing, Nothing, Query
from ..http.routing import Call, Reply, Route
from .models.accounts import AccountsQuery, AccountSummary, AccountView, LimitsRequest, LimitsView, usage_view


def list_accounts(call: Call[AccountsQuery, Any]) -> Reply:
    query = call.query

    def read(connection: Connection) -> dict[str, Any]:
        rows, following = store.page(connection, q=query.q, status=query.status, limit=query.limit, cursor=query.cursor)
        shown = ("status", "created_at", "updated_at")
        items = [{"account": row["id"], **{name: row[name] for name in shown}} for row in rows]
        return {"items": items, "next_cursor": following}

    return Reply(call.service.database.read(read))


def get_account(call: Call[Query, Any]) -> Reply:
    return Reply(account_view(call, call.account))


def account_view(call: Call[Any, Any], account: str) -> dict[str, Any]:
    """The whole account.

    Raises:
        NotFound: the account does not exist.
    """

    def read(connection: Connection) -> tuple[Any, dict[str, dict[str, Any]], list[dict[str, Any]]]:
        row = store.fetch(connection, account)
        return row, store.queues(connection, account), usage.of_account(connection, account, limit=usage.SHOWN_DAYS)

    row, queues, days = call.service.database.read(read)
    # The webhooks' lane is shown once the account has used it; most never do.
    names = sorted((set(call.service.lanes()) - {webhooks.LANE}) | set(queues))
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


def put_limits(call: Call[Query, LimitsRequest]) -> Reply:
    known, wanted = call.service.lanes(), call.body
    unknown = [name for name in wanted.lanes if name not in known]
    if unknown:
        faults = tuple(Fault(("lanes", name), f"there is no lane {name!r}") for name in unknown)
        raise InvalidInput(f"lanes: there is no {', '.join(unknown)}; known are {', '.join(known)}", faults)
    limits = AccountLimits.from_json(wanted.model_dump())
    before = call.service.database.write(lambda connection: store.put_limits(connection, call.account, limits))
    call.service.runtime.settings_sync.sync_account(call.account)
    return Reply(limits.as_json(), audit={"before": before.as_json(), "after": limits.as_json()})


def set_status(status: str) -> Callable[[Call[Query, Nothing]], Reply]:
    """An endpoint that gives the account this status. SQL has it first: each start of a step is checked there."""

    def endpoint(call: Call[Query, Nothing]) -> Reply:
        closed: list[str] = []

        def write(connection: Connection) -> str:
            before = store.set_status(connection, call.account, status)
            closed[:] = circuits.close(connection, call.account) if status == "active" else []
            return before

        before = call.service.database.write(write)
        call.service.runtime.settings_sync.sync_account(call.account)
        audit = {"before": before, "after": status, **({"circuits_closed": closed} if closed else {})}
        return Reply(account_view(call, call.account), audit=audit)

    return endpoint


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the account of the path exists."""
    try:
        parse_account(call.account)
    except InvalidAccount:
        return  # validation answers 422, with the other faults
    call.service.database.read(lambda connection: store.fetch(connection, call.account))


_ACCOUNT = "/v1/accounts/{account}"

_route = partial(Route, tag="Accounts", access=Access.ADMIN)

ROUTES = [
    _route(
        "GET",
        "/v1/accounts",
        list_accounts,
        "List accounts",
        {200: Listing[AccountSummary]},
        query=AccountsQuery,
        description="In the order of their ids.",
    ),
    _route("GET", _ACCOUNT, get_account, "Get an account", {200: AccountView}, access=Access.OWN),
    _route(
        "PUT",
        f"{_ACCOUNT}/limits",
        put_limits,
        "Replace the account's limits",
        {200: LimitsView},
        body=LimitsRequest,
        description="They apply at once, also to waiting jobs. No limit stops a job that was accepted.",
    ),
    *(
        _route("POST", f"{_ACCOUNT}:{verb}", set_status(status), summary, {200: AccountView}, exists=exists)
        for verb, status, summary in (
            ("pause", "paused", "Pause the account: nothing new starts"),
            ("resume", "active", "Resume the account, and close its circuits"),
            ("drain", "draining", "Drain the account: no new jobs; the rest finishes"),
            ("suspend", "suspended", "Suspend the account: no new jobs, and nothing starts"),
        )
    ),
]
