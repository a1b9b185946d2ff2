"""Lanes for operators: list, pause, limit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from dramatiq.errors import BrokerConnectionError

from tenants.errors import NotFound
from tenants.queues import QueueError
from tenants.queues.notices import warn
from tenants.store.accounts import lanes as store

from ..http.auth import Access
from ..http.models import Items, Listing, Nothing, Paging, Query
from ..http.routing import Call, Reply, Route
from .models.admin import AccountLoadView, HeaviestQuery, LaneView, LaneWideLimitsRequest, LaneWideLimitsView

log = logging.getLogger(__name__)

#: The counts of an answer, and where Redis's totals have them.
_COUNTS = {name: name for name in ("waiting", "active", "delayed", "queues", "oldest_wait")} | {
    "ready_accounts": "ready"
}


def _view(call: Call[Any, Any], lane: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The lane's settings from SQL, and its counts from Redis, which are null while Redis is down."""
    counts: dict[str, Any] = dict.fromkeys(_COUNTS)
    try:
        totals = call.service.broker.queues_admin.totals(lane)
    except (BrokerConnectionError, QueueError) as error:
        warn(log, error, "lane %s is shown without its counts: %s", lane, error)
    else:
        counts = {shown: getattr(totals, name) for shown, name in _COUNTS.items()}
    return {"lane": lane, **settings, **counts}


def list_lanes(call: Call[Paging, Any]) -> Reply:
    database = call.service.database
    items = [
        _view(call, lane, database.read(lambda connection, lane=lane: store.of(connection, lane)))  # type: ignore[misc]
        for lane in call.service.lanes()
    ]
    return Reply({"items": items, "next_cursor": None})


def heaviest(call: Call[HeaviestQuery, Any]) -> Reply:
    exists(call)
    query = call.query
    loads = call.service.broker.queues_admin.loads(call.params["lane"], query.by, number=query.limit)
    return Reply({"items": [asdict(each) for each in loads]})


def put_limits(call: Call[Query, LaneWideLimitsRequest]) -> Reply:
    limits = {"global_concurrency": call.body.global_concurrency}
    before = _change(call, **limits)
    return Reply(limits, audit={"before": {"global_concurrency": before["global_concurrency"]}, "after": limits})


def set_paused(paused: bool) -> Callable[[Call[Query, Nothing]], Reply]:
    """An endpoint that pauses the lane for all accounts, or ends the pause."""

    def endpoint(call: Call[Query, Nothing]) -> Reply:
        before = _change(call, paused=paused)
        lane = call.params["lane"]
        settings = call.service.database.read(lambda connection: store.of(connection, lane))
        audit = {"before": {"paused": before["paused"]}, "after": {"paused": paused}}
        return Reply(_view(call, lane, settings), audit=audit)

    return endpoint


def _change(call: Call[Any, Any], **values: Any) -> dict[str, Any]:
    """Change SQL first: each start of a step is checked there, and Redis can be rebuilt from it."""
    lane = call.params["lane"]
    before = call.service.database.write(lambda connection: store.change(connection, lane, **values))
    call.service.runtime.settings_sync.sync_lanes()
    return before


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless a loaded pipeline has a step on the lane."""
    if call.params["lane"] not in call.service.lanes():
        raise NotFound(f"there is no lane {call.params['lane']!r}; there are {', '.join(call.service.lanes())}")


_LANE = "/v1/admin/lanes/{lane}"

_route = partial(Route, tag="Lanes", access=Access.ADMIN)

ROUTES = [
    _route("GET", "/v1/admin/lanes", list_lanes, "List lanes", {200: Listing[LaneView]}, query=Paging),
    _route(
        "GET",
        f"{_LANE}/heaviest",
        heaviest,
        "The accounts that use the lane most",
        {200: Items[AccountLoadView]},
        query=HeaviestQuery,
        description=(
            "The heaviest first. Redis counts them, so it must be there; seconds from before a loss of it are missing."
        ),
    ),
    _route("POST", f"{_LANE}:pause", set_paused(True), "Pause the lane", {200: LaneView}, exists=exists),
    _route("POST", f"{_LANE}:resume", set_paused(False), "Resume the lane", {200: LaneView}, exists=exists),
    _route(
        "PUT",
        f"{_LANE}/limits",
        put_limits,
        "Replace the lane's limits",
        {200: LaneWideLimitsView},
        body=LaneWideLimitsRequest,
        exists=exists,
    ),
]
