"""Tenant queues, dead letters, workers: what an operator looks at and mends; and the pipelines, for everybody."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping

from tenants.errors import AccountBusy, JobNotRetryable, NotFound, QueueNotEmpty
from tenants.queues import QueueDescription
from tenants.store import dead_letters, queues, workers
from tenants.store.dead_letters import LetterFilter

from ..loops.reaper import Reaper
from .auth import Access
from .models.admin import (
    DeadLettersQuery,
    DeadLetterSummary,
    DeadLetterView,
    ForceQuery,
    PipelineView,
    QueueDeleted,
    QueuesQuery,
    QueueView,
    Reaped,
    ReapRequest,
    WorkerView,
)
from .models.base import Listing, Nothing, Paging, Query
from .models.jobs import JobView
from .routing import Call, Reply, Route

#: Jobs that one transaction cancels.
CANCELLED_AT_ONCE = 500
#: Torn-down queues that an answer names.
SHOWN_QUEUES = 100
_ATTEMPT = ("number", "worker", "started_at", "finished_at", "outcome", "error")


# --- tenant queues -------------------------------------------------------------------------------------------------


def _queue_view(found: QueueDescription) -> dict[str, Any]:
    return {
        "lane": found.lane,
        "account": found.account,
        "queue": found.queue,
        "waiting": found.waiting,
        "active": found.active,
        "delayed": found.delayed,
        "last_used_at": found.last_used_at,
        "paused": found.paused,
    }


def list_queues(call: Call[QueuesQuery, Any]) -> Reply:
    query = call.query
    if query.lane is not None and query.lane not in call.service.lanes():
        return Reply({"items": [], "next_cursor": None})
    found, following = call.service.broker.queues_admin.list_queues(
        query.lane,
        account=query.account,
        cursor=query.cursor,
        limit=query.limit,
        idle_longer_than=query.idle_longer_than,
    )
    items = [_queue_view(each) for each in found if each.standing != "absent"]
    return Reply({"items": items, "next_cursor": following})


def _live_queue(call: Call[Any, Any]) -> QueueDescription:
    lane, account = call.params["lane"], call.account
    found = call.service.broker.queues_admin.describe(lane, account) if lane in call.service.lanes() else None
    if found is None or found.standing == "absent":
        raise NotFound(f"there is no live tenant queue {lane}_{account}")
    return found


def get_queue(call: Call[Query, Any]) -> Reply:
    return Reply(_queue_view(_live_queue(call)))


def delete_queue(call: Call[ForceQuery, Any]) -> Reply:
    """Redis is asked first, so that nothing is cancelled when the teardown cannot follow."""
    lane, account, name = call.params["lane"], call.account, f"{call.params['lane']}_{call.account}"
    _live_queue(call)
    database, broker = call.service.database, call.service.broker.queues_admin
    found = database.read(lambda connection: queues.standing(connection, lane, account))
    if found.running:
        raise AccountBusy(f"{found.running} step(s) run on tenant queue {name}; cancel their jobs, or wait")
    if found.waiting and not call.query.force:
        raise QueueNotEmpty(f"{found.waiting} step(s) wait on tenant queue {name}; force=true cancels their jobs")
    cancelled = 0
    while True:
        ended = database.write(
            lambda connection: queues.cancel_waiting(connection, lane, account, limit=CANCELLED_AT_ONCE)
        )
        cancelled += len(ended)
        if len(ended) < CANCELLED_AT_ONCE:
            break
    broker.purge(lane, account)
    if not broker.delete(lane, account):
        raise AccountBusy(f"something came to tenant queue {name} meanwhile; {cancelled} job(s) were cancelled")
    return Reply({"cancelled": cancelled})


def reap(call: Call[Query, ReapRequest]) -> Reply:
    idle = call.body.idle_longer_than
    if idle is None:
        idle = call.service.settings.reap_idle_seconds
    found = Reaper(call.service.runtime).reap(idle, dry_run=call.body.dry_run)
    shown = [{"lane": lane, "account": account, "queue": f"{lane}_{account}"} for lane, account in found]
    return Reply({"reaped": len(found), "queues": shown[:SHOWN_QUEUES]})


# --- dead letters --------------------------------------------------------------------------------------------------


def _letter_summary(row: RowMapping) -> dict[str, Any]:
    error = {name: value for name, value in row["error"].items() if name != "traceback"}
    shown = ("id", "account", "lane", "pipeline", "actor", "job_id", "step_id", "error_code")
    return {
        **{name: row[name] for name in shown},
        "error": error,
        "attempt_count": row["attempts"],
        "created_at": row["created_at"],
        "resolution": row["resolution"],
        "resolved_at": row["resolved_at"],
    }


def list_letters(call: Call[DeadLettersQuery, Any]) -> Reply:
    query = call.query
    chosen = LetterFilter(query.account, query.lane, query.pipeline, query.error_code)
    rows, following = call.service.database.read(
        lambda connection: dead_letters.page(connection, chosen, limit=query.limit, cursor=query.cursor)
    )
    return Reply({"items": [_letter_summary(row) for row in rows], "next_cursor": following})


def get_letter(call: Call[Query, Any]) -> Reply:
    def read(connection: Connection) -> dict[str, Any]:
        row = dead_letters.fetch(connection, call.params["id"])
        tries = dead_letters.tries(connection, row["step_id"])
        return {
            **_letter_summary(row),
            "message": row["message"],
            "traceback": row["error"].get("traceback"),
            "attempts": [{name: each[name] for name in _ATTEMPT} for each in tries],
        }

    return Reply(call.service.database.read(read))


def replay_letter(call: Call[Query, Nothing]) -> Reply:
    """Let the job go on from the step that died; finished steps and the draft stay, the ledger is asked first."""
    database = call.service.database
    letter = database.read(lambda connection: dead_letters.fetch(connection, call.params["id"]))
    if letter["resolution"] is not None:
        raise JobNotRetryable(f"dead letter {letter['id']} was {letter['resolution']} already")
    if letter["job_id"] is None:
        raise JobNotRetryable(f"dead letter {letter['id']} belongs to no job; send its message anew or discard it")
    job = call.service.jobs.retry(letter["job_id"])
    database.write(lambda connection: dead_letters.resolve_job(connection, letter["job_id"], "replayed"))
    return Reply(job, 202)


def discard_letter(call: Call[Query, Any]) -> Reply:
    call.service.database.write(lambda connection: dead_letters.resolve(connection, call.params["id"], "discarded"))
    return Reply(status=204)


def letter_exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the letter of the path is there."""
    call.service.database.read(lambda connection: dead_letters.fetch(connection, call.params["id"]))


# --- workers and pipelines -----------------------------------------------------------------------------------------


def list_workers(call: Call[Paging, Any]) -> Reply:
    def read(connection: Connection) -> list[dict[str, Any]]:
        live = workers.live(connection)
        running: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in live}
        for row in workers.running(connection, list(running)):
            running[row["worker_id"]].append(
                {
                    "step_id": row["id"],
                    "job_id": row["job_id"],
                    "account": row["account"],
                    "lane": row["lane"],
                    "step": row["name"],
                    "started_at": row["started_at"],
                }
            )
        shown = ("id", "host", "pid", "lanes", "threads", "busy", "started_at", "heartbeat_at")
        return [{**{name: row[name] for name in shown}, "running": running[row["id"]]} for row in live]

    return Reply({"items": call.service.database.read(read), "next_cursor": None})


def list_pipelines(call: Call[Paging, Any]) -> Reply:
    items = [
        {
            "name": pipeline.name,
            "description": pipeline.description,
            "lanes": sorted({step.lane for step in pipeline.steps}),
            "steps": [
                {
                    "name": step.name,
                    "lane": step.lane,
                    "time_limit": step.time_limit,
                    "max_attempts": step.max_attempts,
                    "backoff": list(step.backoff),
                    "isolation": step.isolation,
                    "effect": step.effect,
                    "required": step.required,
                }
                for step in pipeline.steps
            ],
            "input_schema": pipeline.input_schema(),
        }
        for _, pipeline in sorted(call.service.pipelines.items())
    ]
    return Reply({"items": items, "next_cursor": None})


_QUEUE = "/v1/admin/queues/{lane}/{account}"
_LETTERS = "/v1/admin/dead-letters"

ROUTES = [
    Route(
        "GET",
        "/v1/admin/queues",
        list_queues,
        Access.ADMIN,
        "List live tenant queues",
        {200: Listing[QueueView]},
        "Queues",
        query=QueuesQuery,
    ),
    Route("GET", _QUEUE, get_queue, Access.ADMIN, "One tenant queue", {200: QueueView}, "Queues"),
    Route(
        "DELETE",
        _QUEUE,
        delete_queue,
        Access.ADMIN,
        "Tear a tenant queue down",
        {200: QueueDeleted},
        "Queues",
        query=ForceQuery,
        codes=("queue_not_empty", "account_busy"),
        description="With `force`, what waits is cancelled first. The next message makes the queue again.",
    ),
    Route(
        "POST",
        "/v1/admin/reap",
        reap,
        Access.ADMIN,
        "Tear idle tenant queues down",
        {200: Reaped},
        "Queues",
        body=ReapRequest,
        body_required=False,
    ),
    Route(
        "GET",
        _LETTERS,
        list_letters,
        Access.ADMIN,
        "List open dead letters, newest first",
        {200: Listing[DeadLetterSummary]},
        "Dead letters",
        query=DeadLettersQuery,
    ),
    Route(
        "GET", f"{_LETTERS}/{{id}}", get_letter, Access.ADMIN, "One dead letter", {200: DeadLetterView}, "Dead letters"
    ),
    Route(
        "POST",
        f"{_LETTERS}/{{id}}:replay",
        replay_letter,
        Access.ADMIN,
        "Let the job go on from the step that died",
        {202: JobView},
        "Dead letters",
        codes=("job_not_retryable",),
        exists=letter_exists,
    ),
    Route(
        "DELETE",
        f"{_LETTERS}/{{id}}",
        discard_letter,
        Access.ADMIN,
        "Discard a dead letter",
        {204: None},
        "Dead letters",
    ),
    Route(
        "GET",
        "/v1/admin/workers",
        list_workers,
        Access.ADMIN,
        "List live workers",
        {200: Listing[WorkerView]},
        "Workers",
        query=Paging,
    ),
    Route(
        "GET",
        "/v1/pipelines",
        list_pipelines,
        Access.OWN,
        "List pipelines",
        {200: Listing[PipelineView]},
        "Pipelines",
        query=Paging,
    ),
]
