"""`onelane jobs …`: make, look at, explain and steer jobs over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from ..client import Resource
from . import FAILED, OK
from .context import Account, Caller, Limit, expand_options, read_json
from .output import console, print_job, print_json, print_table, status_text

group = typer.Typer(help="Make, list, look at, explain, watch and steer jobs.", no_args_is_help=True)


@group.command("create")
@expand_options
def create_job(
    account: str,
    pipeline: str,
    *,
    input: Annotated[str, typer.Option("--input", help="The input: JSON, @file, or - for standard input.")] = "{}",
    delay: Annotated[float | None, typer.Option(min=0, help="Start in so many seconds at the earliest.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 first; 5 when not given.")] = None,
    unique_key: Annotated[str | None, typer.Option(help="At most one unfinished job of this key.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Called, signed, when the job has ended.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same job for 24 h.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show progress until the job has ended.")] = False,
    caller: Caller,
) -> None:
    """Make a job for ACCOUNT."""
    given = read_json("--input", input, dict)
    with caller.connect() as onelane:
        job = onelane.jobs.create(
            account,
            pipeline,
            given,
            delay=delay,
            priority=priority,
            unique_key=unique_key,
            callback_url=callback_url,
            tags=tag or None,
            idempotency_key=idempotency_key,
        )
        if watch:
            raise typer.Exit(_watch(onelane.jobs.watch(job["id"]), json=caller.json))
    caller.show(job, print_job)


@group.command("list")
@expand_options
def list_jobs(
    *,
    account: Account = None,
    status: Annotated[str | None, typer.Option(help="Only with this status.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only of this pipeline.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    q: Annotated[str | None, typer.Option("--search", help="Id, tag or unique key begins with this.")] = None,
    limit: Limit = 50,
    caller: Caller,
) -> None:
    """List jobs, newest first."""
    with caller.connect() as onelane:
        found = onelane.jobs.list(limit=limit, account=account, status=status, pipeline=pipeline, tag=tag, q=q)
        columns = ("id", "account", "pipeline", "status", "current_step", "created_at", "error")
        caller.show_rows(found, columns, empty="no jobs")


@group.command("get")
@expand_options
def get_job(
    job_id: str,
    *,
    wait: Annotated[float, typer.Option(min=0, max=60, help="Seconds to wait for its end.")] = 0,
    caller: Caller,
) -> None:
    """Show a job with its steps and attempts."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.get(job_id, wait=wait), print_job)


@group.command("cancel")
@expand_options
def cancel_job(job_id: str, caller: Caller) -> None:
    """Cancel a job; a step that runs is killed."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.cancel(job_id), print_job)


@group.command("watch")
@expand_options
def watch_job(job_id: str, caller: Caller) -> None:
    """Show a job's progress until it has ended; status 0 only if it completed."""
    with caller.connect() as onelane:
        raise typer.Exit(_watch(onelane.jobs.watch(job_id), json=caller.json))


@group.command("why")
@expand_options
def why(job_id: str, caller: Caller) -> None:
    """Tell every reason why a job does not run now."""
    with caller.connect() as onelane:
        columns = ("code", "message", "until", "count")
        caller.show_rows(onelane.jobs.why(job_id), columns, empty="nothing holds it up: it runs, or has ended")


@group.command("deliveries")
@expand_options
def deliveries(job_id: str, caller: Caller) -> None:
    """Tell what became of a job's webhook: every try to call its callback URL."""
    with caller.connect() as onelane:
        caller.show({"items": onelane.jobs.deliveries(job_id)}, _print_deliveries)


@group.command("retry")
@expand_options
def retry_job(job_id: str, caller: Caller) -> None:
    """Let a job that ended without success go on from the step that failed."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.retry(job_id), print_job)


@group.command("approve")
@expand_options
def approve_job(job_id: str, caller: Caller) -> None:
    """Let a job that awaits approval run its last step."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.approve(job_id), print_job)


@group.command("reject")
@expand_options
def reject_job(
    job_id: str,
    *,
    reason: Annotated[str | None, typer.Option(help="Kept with the job.")] = None,
    caller: Caller,
) -> None:
    """Refuse a job that awaits approval; its draft is discarded."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.reject(job_id, reason), print_job)


def _print_deliveries(answer: Resource) -> None:
    """A line for each try, and one for a delivery that has none yet."""
    blank = dict.fromkeys(("number", "started_at", "status_code", "seconds", "error"))
    tries = [
        {**blank, **attempt, **{name: each[name] for name in ("id", "status", "next_attempt_at")}}
        for each in answer["items"]
        for attempt in each["attempts"] or [{}]
    ]
    columns = ("id", "status", "number", "started_at", "status_code", "seconds", "error", "next_attempt_at")
    print_table(tries, columns, empty="no deliveries: it has not ended, or has no callback URL")


def _watch(states: Iterable[Resource], *, json: bool) -> int:
    job: Resource | None = None
    if json:
        *_, job = states
        print_json(job)
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=8) as live:
            for job in states:
                live.update(_watched(job))
    else:
        for job in states:
            steps = "  ".join(f"{step['name']} {step['status']} {step['progress']} %" for step in job["steps"])
            console.print(f"{job['status']}  {steps}", markup=False)
    if job is not None and not json:
        print_job(job)
    return OK if job is not None and job["status"] == "completed" else FAILED


def _watched(job: Resource) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"{job['id']}  {job['status']}")
    for head in ("step", "status", "%", "note"):
        table.add_column(head)
    for step in job["steps"]:
        table.add_row(step["name"], status_text(step["status"]), str(step["progress"]), step["note"] or "")
    return table
