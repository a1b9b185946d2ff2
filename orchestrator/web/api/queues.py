"""Tenant queues for operators: list, pause, delete, reap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection

from tenants.errors import NotFound
from tenants.queues import InvalidEntry, QueueDescription
from tenants.store.accounts import accounts, circuits, queues
from tenants.store.listings import decode_place, encode_place

from ...loops.reaper import Reaper
from ..http.auth import Access
from ..http.models import Listing, Nothing, Query
from ..http.routing import Call, Reply, Route
from .accounts import exists as account_exists
from .models.admin import ForceQuery, QueueDeleted, QueuesQuery, QueueView, Reaped, ReapRequest

#: Most deleted queues that an answer lists.
SHOWN_QUEUES = 100


def _queue_view(found: QueueDescription, circuit: dict[str, Any] | None) -> dict[str, Any]:
    names = ("lane", "account", "queue", "waiting", "active", "delayed", "last_used_at")
    shown = {name: getattr(found, name) for name in names}
    return {**shown, "paused": found.paused or circuit is not None, "circuit": circuit}


def list_queues(call: Call[QueuesQuery, Any]) -> Reply:
    query = call.query
    if query.lane is not None and query.lane not in call.service.lanes():
        return Reply({"items": [], "next_cursor": None})
    try:
        found, following = call.service.broker.queues_admin.list_queues(
            query.lane,
            account=query.account,
            cursor=None if query.cursor is None else decode_place(query.cursor, str),
            limit=query.limit,
            idle_longer_than=query.idle_longer_than,
        )
    except InvalidEntry:  # the cursor is not from a page, so nothing follows it
        return Reply({"items": [], "next_cursor": None})
    names = [each.account for each in found if each.account is not None]
    open_circuits = {
        (row["lane"], row["account"]): circuits.view(row)
        for row in call.service.database.read(lambda connection: circuits.of_accounts(connection, names))
    }
    items = [
        _queue_view(each, open_circuits.get((each.lane, each.account or "")))
        for each in found
        if each.standing != "absent"
    ]
    return Reply({"items": items, "next_cursor": None if following is None else encode_place(following)})


def _live_queue(call: Call[Any, Any]) -> QueueDescription:
    lane, account = call.params["lane"], call.account
    found = call.service.broker.queues_admin.describe(lane, account) if lane in call.service.lanes() else None
    if found is None or found.standing == "absent":
        raise NotFound(f"there is no live tenant queue {lane}_{account}")
    return found


def get_queue(call: Call[Query, Any]) -> Reply:
    found, lane, account = _live_queue(call), call.params["lane"], call.account
    circuit = call.service.database.read(lambda connection: circuits.of_lane(connection, lane, account))
    return Reply(_queue_view(found, circuits.view(circuit)))


def set_paused(paused: bool) -> Callable[[Call[Query, Nothing]], Reply]:
    """An endpoint that pauses a tenant queue, or ends the pause. The queue need not be live."""

    def endpoint(call: Call[Query, Nothing]) -> Reply:
        lane, account = call.params["lane"], call.account
        reason = "operator" if paused else None

        def write(connection: Connection) -> dict[str, Any]:
            before = queues.pause_of(connection, lane, account)
            queues.set_paused(connection, lane, account, paused, reason=reason)
            if not paused and circuits.close(connection, account, lane):
                before = {**before, "circuit": "open"}
            return before

        before = call.service.database.write(write)
        call.service.runtime.settings_sync.sync_account(account)
        return Reply(_from_sql(call), audit={"before": before, "after": {"paused": paused, "reason": reason}})

    return endpoint


def _from_sql(call: Call[Any, Any]) -> dict[str, Any]:
    """The queue with SQL's counts, for answers that must not depend on Redis."""
    lane, account = call.params["lane"], call.account
    found = call.service.database.read(lambda connection: accounts.queues(connection, account))
    counts = found.get(lane, accounts.empty_queue())
    shown = {name: counts[name] for name in ("waiting", "active", "delayed", "last_used_at", "paused", "circuit")}
    return {"lane": lane, "account": account, "queue": f"{lane}_{account}", **shown}


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the lane and the account exist."""
    if call.params["lane"] not in call.service.lanes():
        raise NotFound(f"there is no lane {call.params['lane']!r}")
    account_exists(call)


def delete(call: Call[ForceQuery, Any]) -> Reply:
    """Check Redis first, so that no job is cancelled if the queue cannot be deleted."""
    _live_queue(call)
    done = call.service.runtime.queue_deletion.delete(call.params["lane"], call.account, force=call.query.force)
    answer = {"cancelled": done.cancelled, "deleted": done.deleted}
    return Reply(answer, audit={"before": {"waiting": done.waiting}, "after": None, **answer})


def reap(call: Call[Query, ReapRequest]) -> Reply:
    idle = call.body.idle_longer_than
    if idle is None:
        idle = call.service.settings.reap_idle_seconds
    found = Reaper(call.service.runtime).reap(idle, dry_run=call.body.dry_run)
    shown = [{"lane": lane, "account": account, "queue": f"{lane}_{account}"} for lane, account in found]
    audit = {"dry_run": call.body.dry_run, "idle_longer_than": idle, "after": {"reaped": len(found)}}
    return Reply({"reaped": len(found), "queues": shown[:SHOWN_QUEUES]}, audit=audit)


_QUEUE = "/v1/admin/queues/{lane}/{account}"

_route = partial(Route, tag="Queues", access=Access.ADMIN)

ROUTES = [
    _route(
        "GET", "/v1/admin/queues", list_queues, "List live tenant queues", {200: Listing[QueueView]}, query=QueuesQuery
    ),
    _route("GET", _QUEUE, get_queue, "Get a tenant queue", {200: QueueView}),
    _route(
        "DELETE",
        _QUEUE,
        delete,
        "Delete a tenant queue",
        {200: QueueDeleted},
        query=ForceQuery,
        codes=("queue_not_empty", "account_busy"),
        description=(
            "With `force`, waiting jobs are cancelled first. `deleted` is false if new work kept the queue. The "
            "next message makes the queue again."
        ),
    ),
    _route(
        "POST",
        f"{_QUEUE}:pause",
        set_paused(True),
        "Pause the tenant queue",
        {200: QueueView},
        codes=("account_busy",),
        exists=exists,
    ),
    _route(
        "POST",
        f"{_QUEUE}:resume",
        set_paused(False),
        "Resume the tenant queue, and close its circuit",
        {200: QueueView},
        codes=("account_busy",),
        exists=exists,
    ),
    _route(
        "POST",
        "/v1/admin/reap",
        reap,
        "Delete idle tenant queues",
        {200: Reaped},
        body=ReapRequest,
        body_required=False,
    ),
]
