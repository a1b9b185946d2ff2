"""Workers, for operators; pipelines, for everybody."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection

from tenants import webhooks
from tenants.store import workers

from ..http.auth import Access
from ..http.models import Listing, Paging
from ..http.routing import Call, Reply, Route
from .models.admin import PipelineStep, PipelineView, WorkerView


def list_workers(call: Call[Paging, Any]) -> Reply:
    def read(connection: Connection) -> list[dict[str, Any]]:
        live = workers.live(connection)
        running: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in live}
        for row in workers.running(connection, list(running)):
            shared = {name: row[name] for name in ("job_id", "account", "lane", "started_at")}
            running[row["worker_id"]].append({"step_id": row["id"], "step": row["name"], **shared})
        shown = ("id", "host", "pid", "lanes", "threads", "busy", "started_at", "heartbeat_at")
        return [{**{name: row[name] for name in shown}, "running": running[row["id"]]} for row in live]

    return Reply({"items": call.service.database.read(read), "next_cursor": None})


def list_pipelines(call: Call[Paging, Any]) -> Reply:
    items = [
        {
            "name": pipeline.name,
            "description": pipeline.description,
            "lanes": sorted({step.lane for step in pipeline.steps}),
            "steps": [{name: getattr(step, name) for name in PipelineStep.model_fields} for step in pipeline.steps],
            "input_schema": pipeline.input_schema(),
        }
        for name, pipeline in sorted(call.service.pipelines.items())
        if name != webhooks.PIPELINE  # its jobs are made by other jobs alone
    ]
    return Reply({"items": items, "next_cursor": None})


_route = partial(Route, tag="Workers", access=Access.ADMIN)

ROUTES = [
    _route("GET", "/v1/admin/workers", list_workers, "List live workers", {200: Listing[WorkerView]}, query=Paging),
    _route(
        "GET",
        "/v1/pipelines",
        list_pipelines,
        "List pipelines",
        {200: Listing[PipelineView]},
        access=Access.OWN,
        tag="Pipelines",
        query=Paging,
    ),
]
