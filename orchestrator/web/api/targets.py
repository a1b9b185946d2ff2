"""An account's publishing target, and its browser session."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from time import monotonic
from typing import Any

from sqlalchemy import Connection

from actors.clients.safe_url import HostNotFound, Resolve, check_url, resolve_host
from actors.errors import UnsafeUrl
from tenants.errors import Fault, InvalidInput, UnsafeTargetUrl
from tenants.store.accounts import accounts as store
from tenants.store.accounts import circuits

from ..http.auth import Access
from ..http.models import Query
from ..http.routing import Call, Reply, Route
from .models.accounts import SessionRequest, SessionView, TargetRequest, TargetView

#: How long one call may resolve names; a lookup in progress may exceed it.
LOOKUP_SECONDS = 10.0


def put_target(call: Call[Query, TargetRequest]) -> Reply:
    wanted = call.body
    known = call.service.runtime.publishers
    if wanted.publisher not in known:
        message = f"there is no publisher {wanted.publisher!r}; known are {', '.join(sorted(known))}"
        raise InvalidInput(f"publisher: {message}", (Fault(("publisher",), message),))
    check_reachable(wanted.base_url, call.service.settings.allowed_hosts, ("base_url",))
    target = {"publisher": wanted.publisher, "base_url": wanted.base_url, "options": wanted.options}
    before = call.service.database.write(lambda connection: store.put_target(connection, call.account, target))
    return Reply(target, audit={"before": _audit_of(before), "after": _audit_of(target)})


def _audit_of(target: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A target as the audit keeps it, without the values of the options, which may be secret."""
    if target is None:
        return None
    return {"publisher": target["publisher"], "base_url": target["base_url"], "options": sorted(target["options"])}


class BoundedLookups:
    """Resolves the names of one call: each once, and none after `LOOKUP_SECONDS`.

    A batch can name a thousand hosts whose name servers never answer. That would hold a thread for hours, and the call
    longer than the claim of its idempotency key.
    """

    def __init__(self) -> None:
        self._until = monotonic() + LOOKUP_SECONDS
        self._known: dict[tuple[str, int], Collection[str]] = {}

    def __call__(self, name: str, port: int) -> Collection[str]:
        found = self._known.get((name, port))
        if found is None:
            try:
                found = resolve_host(name, port) if monotonic() < self._until else ()
            except HostNotFound:
                found = ()
            self._known[name, port] = found
        return found


def check_reachable(
    url: str, allowed_hosts: tuple[str, ...], loc: tuple[str | int, ...], resolve: Resolve | None = None
) -> None:
    """Refuse a URL with an address that is not allowed.

    A host whose name does not resolve now is accepted: name servers fail sometimes, and the URL is checked again when
    it is opened.

    Raises:
        UnsafeTargetUrl: it leads to an address that is not allowed, or is malformed.
    """
    try:
        check_url(url, allowed_hosts, resolve=resolve)
    except HostNotFound:
        return
    except UnsafeUrl as error:
        raise UnsafeTargetUrl(str(error), (Fault(loc, str(error)),)) from error


def get_target(call: Call[Query, Any]) -> Reply:
    return Reply(call.service.database.read(lambda connection: store.target(connection, call.account)))


def delete_target(call: Call[Query, Any]) -> Reply:
    before = call.service.database.write(lambda connection: store.delete_target(connection, call.account))
    return Reply(status=204, audit={"before": _audit_of(before), "after": None})


def put_session(call: Call[Query, SessionRequest]) -> Reply:
    wanted = call.body
    credentials = wanted.credentials.model_dump() if wanted.credentials is not None else None
    before = call.service.sessions.describe(call.account)
    described = call.service.sessions.put(
        call.account,
        storage_state=wanted.storage_state,
        credentials=credentials,
        expires_at=wanted.expires_at,
    )
    # A new session also ends the pauses and open circuits that a bad one had caused; Redis gets the new settings.
    closed = call.service.database.write(partial(_close_circuits, call))
    call.service.runtime.settings_sync.sync_account(call.account)
    given = sorted(call.body.model_fields_set & {"storage_state", "credentials"})
    audit = {"before": before, "after": described, "given": given, **({"circuits_closed": closed} if closed else {})}
    return Reply(described, audit=audit)


def _close_circuits(call: Call[Any, Any], connection: Connection) -> list[str]:
    """Close the account's circuits on lanes whose steps use the session; returns the lanes whose circuit was open."""
    closed: list[str] = []
    for lane in call.service.runtime.session_lanes:
        closed += circuits.close(connection, call.account, lane)
    return closed


def get_session(call: Call[Query, Any]) -> Reply:
    return Reply(call.service.sessions.describe(call.account))


def delete_session(call: Call[Query, Any]) -> Reply:
    before = call.service.sessions.describe(call.account)
    call.service.sessions.delete(call.account)
    return Reply(status=204, audit={"before": before, "after": None})


_ACCOUNT = "/v1/accounts/{account}"

_route = partial(Route, tag="Accounts", access=Access.OWN)

ROUTES = [
    _route(
        "PUT",
        f"{_ACCOUNT}/target",
        put_target,
        "Set the publishing target",
        {200: TargetView},
        body=TargetRequest,
        codes=("unsafe_url",),
    ),
    _route("GET", f"{_ACCOUNT}/target", get_target, "Get the publishing target", {200: TargetView}),
    _route("DELETE", f"{_ACCOUNT}/target", delete_target, "Delete the publishing target", {204: None}),
    _route(
        "PUT",
        f"{_ACCOUNT}/session",
        put_session,
        "Set the browser session",
        {200: SessionView},
        body=SessionRequest,
        description=(
            "Storage state and credentials are stored sealed and never shown again. The call ends the "
            "pause that a missing session caused, and closes the circuits of the account's lanes that use the session."
        ),
    ),
    _route("GET", f"{_ACCOUNT}/session", get_session, "Get the state of the browser session", {200: SessionView}),
    _route("DELETE", f"{_ACCOUNT}/session", delete_session, "Delete the browser session", {204: None}),
]
