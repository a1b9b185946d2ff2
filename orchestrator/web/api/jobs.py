"""Jobs: create, list, read, wait for, cancel, retry, approve, reject."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from actors.clients.safe_url import Resolve
from tenants import webhooks
from tenants.store.jobs.create import JobPlan
from tenants.store.jobs.lists import JobFilter

from ...control.events import Subscription
from ...control.jobs import is_finished
from ..http.auth import Access
from ..http.models import Items, Listing, Nothing, Query
from ..http.preconditions import wanted_version
from ..http.routing import Call, Reply, Route
from ..http.service import Service
from .models.jobs import JobBatch, JobQuery, JobRequest, JobsQuery, JobSummary, JobView, Rejection, WhyItem
from .targets import BoundedLookups, check_reachable

#: Codes with which the creation of a job can be refused.
CREATION_CODES = (
    "unknown_pipeline",
    "invalid_input",
    "unsafe_url",
    "account_draining",
    "account_suspended",
    "queue_full",
    "quota_exhausted",
)


def create(call: Call[Query, JobRequest]) -> Reply:
    job, created = call.service.jobs.create(call.account, new_job(call, call.body, ()), call.seed)
    return Reply(job, 202 if created else 200, {"Location": job_path(job["id"])})


def create_batch(call: Call[Query, JobBatch]) -> Reply:
    lookups = BoundedLookups()
    jobs = [new_job(call, each, ("jobs", index), lookups) for index, each in enumerate(call.body.jobs)]
    return Reply({"items": call.service.jobs.create_many(call.account, jobs, call.seed)}, 202)


def new_job(
    call: Call[Any, Any], wanted: JobRequest, loc: tuple[str | int, ...], resolve: Resolve | None = None
) -> JobPlan:
    if wanted.callback_url is not None:
        check_reachable(wanted.callback_url, call.service.settings.allowed_hosts, (*loc, "callback_url"), resolve)
    return JobPlan(
        pipeline=wanted.pipeline,
        input=wanted.input,
        run_at=wanted.run_at,
        delay=wanted.delay,
        priority=wanted.priority,
        expires_in=wanted.expires_in,
        deadline=wanted.deadline,
        approval=wanted.approval,
        unique_key=wanted.unique_key,
        callback_url=wanted.callback_url,
        tags=tuple(wanted.tags),
    )


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def list_jobs(call: Call[JobsQuery, Any]) -> Reply:
    query = call.query
    if call.owner is not None and query.account not in (None, call.owner):
        return Reply({"items": [], "next_cursor": None})
    chosen = JobFilter(
        **query.model_dump(exclude={"account", "limit", "cursor"}),
        account=call.owner or query.account,
        deliveries=query.pipeline == webhooks.PIPELINE,
    )
    items, following = call.service.jobs.list(chosen, limit=query.limit, cursor=query.cursor)
    return Reply({"items": items, "next_cursor": following})


async def get(call: Call[JobQuery, Any]) -> Reply | Response:
    """Get a job. It waits on the event loop, not on a thread, so that thousands of calls can wait."""
    service, job_id, owner = call.service, call.params["id"], call.owner
    read = partial(_whole, service, job_id, owner)
    job = await service.in_thread(read)
    if not call.query.wait or is_finished(job["status"]):
        return Reply(job)
    # Subscribe before reading the status, so that an end between the two is not missed.
    async with service.events.of_job(job_id) as events:
        until = monotonic() + call.query.wait
        while not is_finished(await service.in_thread(lambda: service.jobs.status(job_id, owner))):
            if not await _ended(events, until):
                break
    return Reply(await service.in_thread(read))


def _whole(service: Service, job_id: str, owner: str | None) -> dict[str, Any]:
    job = service.jobs.get(job_id, owner)
    return {**job, **service.runtime.explainer.queue_position(job)}


def why(call: Call[Query, Any]) -> Reply:
    reasons = map(asdict, call.service.runtime.explainer.why(call.params["id"], call.owner))
    return Reply({"items": [{name: value for name, value in each.items() if value is not None} for each in reasons]})


async def _ended(events: Subscription, until: float) -> bool:
    """True if the job ended, or if events were lost and the job must be read again; False when the time is over."""
    while (left := until - monotonic()) > 0:
        event = await events.next(left)
        if events.lagged:
            events.caught_up()
            return True
        if event is not None and event.type == "status" and is_finished(event.data["status"]):
            return True
    return False


def cancel(call: Call[Query, Nothing]) -> Reply:
    before = _status(call)
    job, ended = call.service.jobs.cancel(call.params["id"], call.owner)
    return Reply(job, 200 if ended else 202, audit=_from_to(before, job))


def retry(call: Call[Query, Nothing]) -> Reply:
    before = _status(call)
    job = call.service.jobs.retry(call.params["id"], call.owner)
    return Reply(job, audit=_from_to(before, job))


def approve(call: Call[Query, Nothing]) -> Reply:
    version = wanted_version(call.request.headers.get("if-match"))
    job = call.service.jobs.approve(call.params["id"], call.owner, version=version)
    return Reply(job, audit=_from_to("awaiting_approval", job))


def reject(call: Call[Query, Rejection]) -> Reply:
    job = call.service.jobs.reject(call.params["id"], call.owner, reason=call.body.reason)
    return Reply(job, audit={**_from_to("awaiting_approval", job), "reason": call.body.reason})


def _status(call: Call[Any, Any]) -> str:
    return call.service.jobs.status(call.params["id"], call.owner)


def _from_to(before: str, job: dict[str, Any]) -> dict[str, Any]:
    after = {"status": job["status"], "cancel_requested_at": job["cancel_requested_at"]}
    return {"account": job["account"], "before": {"status": before}, "after": after}


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the caller may see the job of the path."""
    call.service.jobs.status(call.params["id"], call.owner)


_route = partial(Route, tag="Jobs", access=Access.OWN)

ROUTES = [
    _route(
        "POST",
        "/v1/accounts/{account}/jobs",
        create,
        "Run a job",
        {202: JobView, 200: JobView},
        body=JobRequest,
        codes=CREATION_CODES,
        creates=True,
        headers=("Location",),
        description=(
            "202 means that the job is committed to the database: it survives the loss of any process and of "
            "all of Redis. 200: an unfinished job with this `unique_key` exists, and this is it."
        ),
    ),
    _route(
        "POST",
        "/v1/accounts/{account}/jobs:batch",
        create_batch,
        "Run up to 1,000 jobs, all or nothing",
        {202: Items[JobSummary]},
        body=JobBatch,
        body_limit="max_batch_bytes",
        codes=CREATION_CODES,
        creates=True,
    ),
    _route("GET", "/v1/jobs", list_jobs, "List jobs, newest first", {200: Listing[JobSummary]}, query=JobsQuery),
    _route(
        "GET",
        "/v1/jobs/{id}",
        get,
        "Get a job, now or when it ends",
        {200: JobView},
        query=JobQuery,
        description="With `wait`, the answer comes when the job ends or the wait is over, with the job as it is then.",
    ),
    _route(
        "GET",
        "/v1/jobs/{id}/why",
        why,
        "Explain why a job does not run now",
        {200: Items[WhyItem]},
        description="All reasons that hold; empty once the job runs or has ended.",
    ),
    _route(
        "POST",
        "/v1/jobs/{id}:cancel",
        cancel,
        "Cancel a job",
        {200: JobView, 202: JobView},
        codes=("job_finished",),
        exists=exists,
        description="200 when it ended at once; 202 while its running step is being killed.",
    ),
    _route(
        "POST",
        "/v1/jobs/{id}:retry",
        retry,
        "Retry a job from the step that failed",
        {200: JobView},
        codes=("job_not_retryable",),
        exists=exists,
        description=(
            "A job whose last step was not approved, or was rejected, awaits approval again; a discarded draft "
            "is `pending_publish` then."
        ),
    ),
    _route(
        "POST",
        "/v1/jobs/{id}:approve",
        approve,
        "Approve a job",
        {200: JobView},
        codes=("not_awaiting_approval", "stale_version"),
        exists=exists,
        description=(
            "This approves the draft as it is then, or at the version that `If-Match` names. When the "
            "draft is edited before it is published, the job awaits approval again."
        ),
    ),
    _route(
        "POST",
        "/v1/jobs/{id}:reject",
        reject,
        "Reject a job",
        {200: JobView},
        body=Rejection,
        body_required=False,
        codes=("not_awaiting_approval",),
        exists=exists,
        description="The job becomes `cancelled` and its draft `discarded`.",
    ),
]
