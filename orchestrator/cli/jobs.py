"""`onelane jobs …`: make, look at, explain and steer jobs over HTTP."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from ..client import Resource
from . import FAILED, OK
from .context import Account, DataDir, Json, Key, Limit, Url, connect
from .output import console, print_job, print_json, print_rows, print_table, status_text

group = typer.Typer(help="Make, list, look at, explain, watch and steer jobs.", no_args_is_help=True)


@group.command("create")
def create_job(
    account: str,
    pipeline: str,
    input: Annotated[str, typer.Option("--input", help="The input: JSON, @file, or - for standard input.")] = "{}",
    delay: Annotated[float | None, typer.Option(min=0, help="Start in so many seconds at the earliest.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 first; 5 when not given.")] = None,
    unique_key: Annotated[str | None, typer.Option(help="At most one unfinished job of this key.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same job for 24 h.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show progress until the job has ended.")] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a job for ACCOUNT."""
    given = _read_input(input)
    with connect(data_dir, url, key) as onelane:
        job = onelane.jobs.create(
            account,
            pipeline,
            given,
            delay=delay,
            priority=priority,
            unique_key=unique_key,
            tags=tag or None,
            idempotency_key=idempotency_key,
        )
        if watch:
            raise typer.Exit(_watch(onelane.jobs.watch(job["id"]), json=json))
    _print(job, json=json)


@group.command("list")
def list_jobs(
    account: Account = None,
    status: Annotated[str | None, typer.Option(help="Only with this status.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only of this pipeline.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    q: Annotated[str | None, typer.Option("--search", help="Id, tag or unique key begins with this.")] = None,
    limit: Limit = 50,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect(data_dir, url, key) as onelane:
        found = onelane.jobs.list(limit=limit, account=account, status=status, pipeline=pipeline, tag=tag, q=q)
        columns = ("id", "account", "pipeline", "status", "current_step", "created_at", "error")
        print_rows(found, columns, json=json, empty="no jobs")


@group.command("get")
def get_job(
    job_id: str,
    wait: Annotated[float, typer.Option(min=0, max=60, help="Seconds to wait for its end.")] = 0,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show a job with its steps and attempts."""
    with connect(data_dir, url, key) as onelane:
        job = onelane.jobs.get(job_id, wait=wait)
    _print(job, json=json)


@group.command("cancel")
def cancel_job(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Cancel a job; a step that runs is killed."""
    with connect(data_dir, url, key) as onelane:
        job = onelane.jobs.cancel(job_id)
    _print(job, json=json)


@group.command("watch")
def watch_job(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show a job's progress until it has ended; status 0 only if it completed."""
    with connect(data_dir, url, key) as onelane:
        raise typer.Exit(_watch(onelane.jobs.watch(job_id), json=json))


@group.command("why")
def why(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Tell every reason why a job does not run now."""
    with connect(data_dir, url, key) as onelane:
        reasons = onelane.jobs.why(job_id)
    if json:
        print_json({"items": reasons})
    else:
        print_table(reasons, ("code", "message", "until", "count"), empty="nothing holds it up: it runs, or has ended")


@group.command("retry")
def retry_job(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Let a job that ended without success go on from the step that failed."""
    with connect(data_dir, url, key) as onelane:
        _print(onelane.jobs.retry(job_id), json=json)


@group.command("approve")
def approve_job(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Let a job that awaits approval run its last step."""
    with connect(data_dir, url, key) as onelane:
        _print(onelane.jobs.approve(job_id), json=json)


@group.command("reject")
def reject_job(
    job_id: str,
    reason: Annotated[str | None, typer.Option(help="Kept with the job.")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Refuse a job that awaits approval; its draft is discarded."""
    with connect(data_dir, url, key) as onelane:
        _print(onelane.jobs.reject(job_id, reason), json=json)


def _print(job: Resource, *, json: bool) -> None:
    if json:
        print_json(job)
    else:
        print_job(job)


def _read_input(text: str) -> dict[str, Any]:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json_text.loads(text)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise typer.BadParameter(f"--input: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("--input: it must be a JSON object")
    return value


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
