"""An account's usage by day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection

from tenants.errors import Fault, InvalidInput
from tenants.store.accounts import accounts, usage

from ..http.auth import Access
from ..http.routing import Call, Reply, Route
from .models.usage import UsageHistory, UsageQuery

#: Most days in one answer.
MAX_DAYS = 366


def get_usage(call: Call[UsageQuery, Any]) -> Reply:
    def read(connection: Connection) -> dict[str, Any]:
        accounts.fetch(connection, call.account)
        today = date.fromisoformat(usage.today(connection))
        last = call.query.to or today
        first = call.query.first or last - timedelta(days=usage.SHOWN_DAYS - 1)
        if not first <= last < first + timedelta(days=MAX_DAYS):
            message = f"it must not be after `to`, and at most {MAX_DAYS} days before"
            raise InvalidInput(f"from: {message}", (Fault(("from",), message),))
        days = usage.of_account(connection, call.account, first=first.isoformat(), last=last.isoformat())
        total = {name: sum(day[name] for day in days) for name in usage.NOTHING}
        return {"from": first.isoformat(), "to": last.isoformat(), "items": days, "total": total}

    return Reply(call.service.database.read(read))


ROUTES = [
    Route(
        "GET",
        "/v1/accounts/{account}/usage",
        get_usage,
        "Get the account's usage by UTC day",
        {200: UsageHistory},
        tag="Accounts",
        access=Access.OWN,
        query=UsageQuery,
        description="Days without usage are left out. Seconds count for the day on which the attempt ended.",
    )
]
