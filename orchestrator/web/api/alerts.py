"""Alerts and open circuits for operators, and a test of the channels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import Connection

from tenants.store.accounts import circuits
from tenants.store.dead_letters import alerts as store
from tenants.store.listings import Page

from ...alerts.texts import commands, sample_text
from ..http.auth import Access
from ..http.models import Listing, Nothing, Query
from ..http.routing import Call, Reply, Route
from .models.alerts import AlertsQuery, AlertsTested, AlertView, CircuitsQuery, OpenCircuitView

_SHOWN = ("id", "kind", "account", "occurrences", "told", "details", "first_at", "last_at", "sent_at", "due_at")


def list_alerts(call: Call[AlertsQuery, Any]) -> Reply:
    query = call.query

    def read(connection: Connection) -> Page:
        return store.page(connection, account=query.account, kind=query.kind, limit=query.limit, cursor=query.cursor)

    found = call.service.database.read(read)
    return Reply({"items": [_view(row) for row in found.rows], "next_cursor": found.next_cursor})


def _view(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _SHOWN},
        "state": _state(row),
        "commands": commands(row["kind"], row["account"], row["details"]),
    }


def _state(row: Mapping[Any, Any]) -> str:
    if row["told"] < row["occurrences"]:
        return "resting" if row["told"] and not row["tries"] else "waiting"
    return "given_up" if row["given_up_at"] is not None else "told"


def test_alerts(call: Call[Query, Nothing]) -> Reply:
    """Store no alert: nothing happened that the message could report."""
    from ...alerts.channels import channels_of, send

    channels = channels_of([url.get_secret_value() for url in call.service.settings.alert_urls])
    text = sample_text()
    failed = send(channels, text.title, text.body, problem=text.problem)
    items = [{"position": each.position, "kind": each.kind, "delivered": each not in failed} for each in channels]
    return Reply(
        {"items": items},
        audit={"before": None, "after": {"delivered": len(channels) - len(failed), "of": len(channels)}},
    )


def list_circuits(call: Call[CircuitsQuery, Any]) -> Reply:
    query = call.query

    def read(connection: Connection) -> Page:
        return circuits.page(connection, account=query.account, lane=query.lane, limit=query.limit, cursor=query.cursor)

    found = call.service.database.read(read)
    items = [
        {
            "lane": row["lane"],
            "account": row["account"],
            "queue": f"{row['lane']}_{row['account']}",
            **(circuits.view(row) or {}),
            "cooldown": row["cooldown_seconds"],
        }
        for row in found.rows
    ]
    return Reply({"items": items, "next_cursor": found.next_cursor})


_route = partial(Route, tag="Alerts", access=Access.ADMIN)

ROUTES = [
    _route(
        "GET",
        "/v1/admin/alerts",
        list_alerts,
        "List alerts",
        {200: Listing[AlertView]},
        query=AlertsQuery,
        description=(
            "Equal events are one alert with a count. Alerts are kept for 30 days after their last event, "
            "whether alert URLs are set or not."
        ),
    ),
    _route(
        "POST",
        "/v1/admin/alerts:test",
        test_alerts,
        "Send a test message to every alert URL",
        {200: AlertsTested},
        description="It waits until each URL has taken the message, for at most 15 seconds.",
    ),
    _route(
        "GET",
        "/v1/admin/circuits",
        list_circuits,
        "List open circuits",
        {200: Listing[OpenCircuitView]},
        tag="Queues",
        query=CircuitsQuery,
        description=(
            "Tenant queues that are stopped because too many steps failed in a row, by lane and account. "
            "`:resume` of the tenant queue or of the account closes one at once."
        ),
    ),
]
