"""Schedules: create, list, read, change, delete, run now, preview."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from ..http.auth import Access
from ..http.models import Items, Listing, Nothing, Paging, Query, Time
from ..http.problems import Problem
from ..http.routing import Call, Reply, Route
from .jobs import job_path
from .models.jobs import JobView
from .models.schedules import (
    FireView,
    ScheduleChange,
    SchedulePreview,
    ScheduleRequest,
    SchedulesQuery,
    ScheduleSummary,
    ScheduleView,
)
from .targets import check_reachable

_COUNTED = "inputs_left"
_SUMMARY = tuple(name for name in ScheduleSummary.model_fields if name != _COUNTED)
_WHOLE = tuple(name for name in ScheduleView.model_fields if name != _COUNTED)
_FIRE = tuple(FireView.model_fields)


def _view(row: Mapping[Any, Any], fields: tuple[str, ...] = _WHOLE) -> dict[str, Any]:
    total = row["inputs_total"]
    left = None if total is None else max(0, total - row["inputs_taken"])
    return {**{name: row[name] for name in fields}, _COUNTED: left}


def create(call: Call[Query, ScheduleRequest]) -> Reply:
    _check_callback(call)

    def reply(row: Mapping[Any, Any]) -> Reply:
        location = f"/v1/schedules/{quote(row['id'], safe='')}"
        return Reply(_view(row), 201, {"Location": location}, audit={"before": None, "after": _audit_of(row)})

    return reply(
        call.service.runtime.schedules.create(
            call.account, call.body.model_dump(), within=lambda connection, row: call.keep(connection, reply(row))
        )
    )


def _check_callback(call: Call[Any, Any]) -> None:
    """Check the callback URL now, as for a job, instead of at each fire. It is checked again before each call."""
    if call.body.callback_url is not None:
        check_reachable(call.body.callback_url, call.service.settings.allowed_hosts, ("callback_url",))


def _audit_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A schedule as the audit keeps it."""
    fields = (
        "id",
        "account",
        "name",
        "pipeline",
        "enabled",
        "cron",
        "every",
        "at",
        "spread",
        "timezone",
        "callback_url",
    )
    return {name: row[name] for name in fields if row[name] is not None}


def list_schedules(call: Call[SchedulesQuery, Any]) -> Reply:
    query = call.query
    if call.owner is not None and query.account not in (None, call.owner):
        return Reply({"items": [], "next_cursor": None})
    rows, following = call.service.runtime.schedules.page(
        account=call.owner or query.account, limit=query.limit, cursor=query.cursor
    )
    return Reply({"items": [_view(row, _SUMMARY) for row in rows], "next_cursor": following})


def get(call: Call[Query, Any]) -> Reply:
    return Reply(_view(call.service.runtime.schedules.fetch(call.params["id"], call.owner)))


def change(call: Call[Query, ScheduleChange]) -> Reply:
    _check_callback(call)
    changes = call.body.model_dump(exclude_unset=True)
    before = call.service.runtime.schedules.fetch(call.params["id"], call.owner)
    spread = call.body.spread
    if spread is not None:  # its own defaults count as given values
        changes["spread"] = spread.model_dump()
    row = call.service.runtime.schedules.change(call.params["id"], call.owner, changes)
    audit = {"before": _audit_of(before), "after": _audit_of(row), "changed": sorted(changes)}
    return Reply(_view(row), audit=audit)


def delete(call: Call[Query, Any]) -> Reply:
    before = call.service.runtime.schedules.fetch(call.params["id"], call.owner)
    call.service.runtime.schedules.remove(before["id"], call.owner)
    return Reply(status=204, audit={"before": _audit_of(before), "after": None})


def run(call: Call[Query, Nothing]) -> Reply:
    def reply(job: Mapping[Any, Any]) -> Reply:
        audit = {"account": job["account"], "after": {"job": job["id"]}}
        return Reply(job, 202, {"Location": job_path(job["id"])}, audit=audit)

    return reply(
        call.service.runtime.schedules.run(
            call.params["id"], call.owner, within=lambda connection, job: call.keep(connection, reply(job))
        )
    )


def preview(call: Call[Query, SchedulePreview]) -> Reply:
    wanted = call.body.model_dump(exclude={"account", "count"})
    account = call.body.account or call.owner
    if call.owner is not None and account != call.owner:
        raise Problem("not_found", "there is no such account, or it is not yours")
    wanted["name"] = wanted["name"] or ""
    _check_callback(call)
    return Reply({"items": call.service.runtime.schedules.preview(account or "", wanted, call.body.count)})


def list_fires(call: Call[Paging, Any]) -> Reply:
    query = call.query
    rows, following = call.service.runtime.schedules.fires(
        call.params["id"], call.owner, limit=query.limit, cursor=query.cursor
    )
    return Reply({"items": [{name: row[name] for name in _FIRE} for row in rows], "next_cursor": following})


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the caller may see the schedule of the path."""
    call.service.runtime.schedules.fetch(call.params["id"], call.owner)


_SCHEDULE = "/v1/schedules/{id}"
_WRONG = ("invalid_schedule", "unknown_pipeline", "invalid_input", "unsafe_url")
_REFUSED = ("unknown_pipeline", "invalid_input", "account_draining", "account_suspended", "queue_full")

_route = partial(Route, tag="Schedules", access=Access.OWN)

ROUTES = [
    _route(
        "POST",
        "/v1/accounts/{account}/schedules",
        create,
        "Create a schedule",
        {201: ScheduleView},
        body=ScheduleRequest,
        codes=_WRONG,
        creates=True,
        headers=("Location",),
        description=(
            "Give one of `cron`, `every`, `at` and `spread`. Each fire happens once, however many control planes run."
        ),
    ),
    _route(
        "GET",
        "/v1/schedules",
        list_schedules,
        "List schedules, newest first",
        {200: Listing[ScheduleSummary]},
        query=SchedulesQuery,
    ),
    _route("GET", _SCHEDULE, get, "Get a schedule", {200: ScheduleView}),
    _route(
        "PATCH",
        _SCHEDULE,
        change,
        "Change a schedule, or turn it on or off",
        {200: ScheduleView},
        body=ScheduleChange,
        codes=_WRONG,
        exists=exists,
        description="Omitted fields stay. The next fire moves only if the change concerns the times.",
    ),
    _route(
        "POST",
        f"{_SCHEDULE}:run",
        run,
        "Run a schedule now",
        {202: JobView},
        codes=(*_REFUSED, "quota_exhausted", "schedule_ended", "account_busy"),
        creates=True,
        exists=exists,
        headers=("Location",),
        description="Regardless of its times, and also when it is off. It takes the next of `inputs`; its times stay.",
    ),
    _route(
        "GET",
        f"{_SCHEDULE}/fires",
        list_fires,
        "List a schedule's fires, newest first",
        {200: Listing[FireView]},
        query=Paging,
        description=(
            "`fired`: a job was made. `skipped`: the job before had not ended. `missed`: no control plane ran at that "
            "time, and `catch_up` skips it. `refused`: a limit or the account's state refused the job; `error` says "
            "which. Kept for a week."
        ),
    ),
    _route("DELETE", _SCHEDULE, delete, "Delete a schedule", {204: None}, description="Its jobs stay."),
    _route(
        "POST",
        "/v1/schedules:preview",
        preview,
        "Preview the times of a schedule",
        {200: Items[Time]},
        body=SchedulePreview,
        codes=(*_WRONG, "not_found"),
        description="The exact times at which a schedule of this account and name would fire.",
        changes=False,
    ),
]
