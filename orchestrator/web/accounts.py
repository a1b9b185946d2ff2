"""Accounts, and what they bring along: target, session, keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from actors.clients.publishers import PUBLISHER_NAMES
from actors.clients.safe_url import HostNotFound, check_url
from actors.errors import UnsafeUrl
from tenants.account import AccountLimits
from tenants.errors import Fault, InvalidInput, NotFound, UnsafeTargetUrl
from tenants.store import accounts as store
from tenants.store import keys

from .auth import Access
from .models.accounts import (
    AccountsQuery,
    AccountSummary,
    AccountView,
    KeyRequest,
    KeysQuery,
    KeyView,
    NewKeyView,
    SessionRequest,
    SessionView,
    TargetRequest,
    TargetView,
    usage_view,
)
from .models.base import Listing, Paging, Query
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


# --- target --------------------------------------------------------------------------------------------------------


def put_target(call: Call[Query, TargetRequest]) -> Reply:
    wanted = call.body
    if wanted.publisher not in PUBLISHER_NAMES:
        message = f"there is no publisher {wanted.publisher!r}; known are {', '.join(PUBLISHER_NAMES)}"
        raise InvalidInput(f"publisher: {message}", (Fault(("publisher",), message),))
    check_reachable(wanted.base_url, call.service.settings.allowed_hosts, ("base_url",))
    target = {"publisher": wanted.publisher, "base_url": wanted.base_url, "options": wanted.options}
    call.service.database.write(lambda connection: store.put_target(connection, call.account, target))
    return Reply(target)


def check_reachable(url: str, allowed_hosts: tuple[str, ...], loc: tuple[str | int, ...]) -> None:
    """Refuse a caller's URL that leads where it must not.

    A host whose name does not resolve now is let through: name servers have bad minutes, and whoever opens the URL
    judges it again then.

    Raises:
        UnsafeTargetUrl: it leads to an address that is not allowed, or is malformed.
    """
    try:
        check_url(url, allowed_hosts)
    except HostNotFound:
        return
    except UnsafeUrl as error:
        raise UnsafeTargetUrl(str(error), (Fault(loc, str(error)),)) from error


def get_target(call: Call[Query, Any]) -> Reply:
    return Reply(call.service.database.read(lambda connection: store.target(connection, call.account)))


def delete_target(call: Call[Query, Any]) -> Reply:
    call.service.database.write(lambda connection: store.delete_target(connection, call.account))
    return Reply(status=204)


# --- session -------------------------------------------------------------------------------------------------------


def put_session(call: Call[Query, SessionRequest]) -> Reply:
    wanted = call.body
    credentials = wanted.credentials.model_dump() if wanted.credentials is not None else None
    return Reply(
        call.service.sessions.put(
            call.account,
            storage_state=wanted.storage_state,
            credentials=credentials,
            expires_at=wanted.expires_at,
        )
    )


def get_session(call: Call[Query, Any]) -> Reply:
    return Reply(call.service.sessions.describe(call.account))


def delete_session(call: Call[Query, Any]) -> Reply:
    call.service.sessions.delete(call.account)
    return Reply(status=204)


# --- keys ----------------------------------------------------------------------------------------------------------


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
    return Reply({**made, "key": key}, 201, {"Location": f"{call.request.scope['raw_path'].decode()}/{made['id']}"})


def list_keys(call: Call[Paging, Any]) -> Reply:
    query = call.query
    rows, following = call.service.database.read(
        lambda connection: keys.page(connection, call.account, limit=query.limit, cursor=query.cursor)
    )
    return Reply({"items": [dict(row) for row in rows], "next_cursor": following})


def delete_key(call: Call[Query, Any]) -> Reply:
    call.service.database.write(lambda connection: keys.revoke(connection, call.account, call.params["id"]))
    return Reply(status=204)


def delete_keys(call: Call[KeysQuery, Any]) -> Reply:
    only = call.query.id

    def write(connection: Connection) -> None:
        if only is not None:
            keys.revoke(connection, call.account, only)
        elif not keys.revoke_all(connection, call.account):
            raise NotFound(f"account {call.account!r} has no keys")

    call.service.database.write(write)
    return Reply(status=204)


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
    Route(
        "PUT",
        f"{_ACCOUNT}/target",
        put_target,
        Access.OWN,
        "Set where the account publishes",
        {200: TargetView},
        "Accounts",
        body=TargetRequest,
        codes=("unsafe_url",),
    ),
    Route(
        "GET",
        f"{_ACCOUNT}/target",
        get_target,
        Access.OWN,
        "Where the account publishes",
        {200: TargetView},
        "Accounts",
    ),
    Route(
        "DELETE",
        f"{_ACCOUNT}/target",
        delete_target,
        Access.OWN,
        "Forget where the account publishes",
        {204: None},
        "Accounts",
    ),
    Route(
        "PUT",
        f"{_ACCOUNT}/session",
        put_session,
        Access.OWN,
        "Set the browser session",
        {200: SessionView},
        "Accounts",
        body=SessionRequest,
        description="Storage state and credentials are sealed before they are kept and are never shown again.",
    ),
    Route(
        "GET",
        f"{_ACCOUNT}/session",
        get_session,
        Access.OWN,
        "The state of the browser session",
        {200: SessionView},
        "Accounts",
    ),
    Route(
        "DELETE",
        f"{_ACCOUNT}/session",
        delete_session,
        Access.OWN,
        "Forget the browser session",
        {204: None},
        "Accounts",
    ),
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
