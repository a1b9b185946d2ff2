"""The commands that speak to a running service over HTTP: jobs, accounts, queues, dead-letters, keys."""

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
from .context import DataDir, Json, Key, Limit, Url, connect, load
from .output import console, print_account, print_job, print_json, print_table, status_text

Account = Annotated[str | None, typer.Option(help="Only of this account.")]

jobs = typer.Typer(help="Make, list, look at, watch and cancel jobs.", no_args_is_help=True)
accounts = typer.Typer(help="Look at accounts.", no_args_is_help=True)
queues = typer.Typer(help="List and delete live tenant queues.", no_args_is_help=True)
dead_letters = typer.Typer(help="List, replay and discard steps that will not be tried again.", no_args_is_help=True)
keys = typer.Typer(help="Make API keys.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Hang the groups into the command line."""
    for name, group in (
        ("jobs", jobs),
        ("accounts", accounts),
        ("queues", queues),
        ("dead-letters", dead_letters),
        ("keys", keys),
    ):
        app.add_typer(group, name=name)
    app.command("reconcile")(reconcile)


@jobs.command("create")
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
    if json:
        print_json(job)
    else:
        print_job(job)


@jobs.command("list")
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
        _show(found, columns, json=json, empty="no jobs")


@jobs.command("get")
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
    if json:
        print_json(job)
    else:
        print_job(job)


@jobs.command("cancel")
def cancel_job(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Cancel a job; a step that runs is killed."""
    with connect(data_dir, url, key) as onelane:
        job = onelane.jobs.cancel(job_id)
    if json:
        print_json(job)
    else:
        print_job(job)


@jobs.command("watch")
def watch_job(job_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show a job's progress until it has ended; status 0 only if it completed."""
    with connect(data_dir, url, key) as onelane:
        raise typer.Exit(_watch(onelane.jobs.watch(job_id), json=json))


@accounts.command("get")
def get_account(account: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show an account: status, lanes, session, target, usage."""
    with connect(data_dir, url, key) as onelane:
        found = onelane.accounts.get(account)
    if json:
        print_json(found)
        return
    print_account(found)
    columns = ("lane", "queue", "waiting", "active", "delayed", "oldest_wait", "paused")
    print_table(found["lanes"], columns, empty="no live tenant queues")


@queues.command("list")
def list_queues(
    lane: Annotated[str | None, typer.Option(help="Only of this lane.")] = None,
    account: Account = None,
    idle_longer_than: Annotated[float | None, typer.Option(min=0, help="Unused for so many seconds.")] = None,
    limit: Limit = 200,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List live tenant queues."""
    with connect(data_dir, url, key) as onelane:
        found = onelane.queues.list(limit=limit, lane=lane, account=account, idle_longer_than=idle_longer_than)
        columns = ("queue", "lane", "account", "waiting", "active", "delayed", "last_used_at", "paused")
        _show(found, columns, json=json, empty="no live tenant queues")


@queues.command("delete")
def delete_queue(
    lane: str,
    account: str,
    force: Annotated[bool, typer.Option("--force", help="Cancel what waits in it.")] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tear a tenant queue down; one with waiting steps only with --force."""
    with connect(data_dir, url, key) as onelane:
        answer = onelane.queues.delete(lane, account, force=force)
    if json:
        print_json(answer)
    else:
        console.print(f"deleted {lane}_{account}; {answer['cancelled']} cancelled", markup=False)


@dead_letters.command("list")
def list_dead_letters(
    account: Account = None,
    lane: Annotated[str | None, typer.Option(help="Only of this lane.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only of this pipeline.")] = None,
    error_code: Annotated[str | None, typer.Option(help="Only with this error code.")] = None,
    limit: Limit = 50,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List dead letters, newest first."""
    with connect(data_dir, url, key) as onelane:
        filters = {"account": account, "lane": lane, "pipeline": pipeline, "error_code": error_code}
        found = onelane.dead_letters.list(limit=limit, **filters)
        columns = ("id", "account", "lane", "actor", "error_code", "attempt_count", "created_at")
        _show(found, columns, json=json, empty="no dead letters")


@dead_letters.command("replay")
def replay_dead_letter(
    dead_letter_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Let the job go on from the step that died."""
    with connect(data_dir, url, key) as onelane:
        job = onelane.dead_letters.replay(dead_letter_id)
    if json:
        print_json(job)
    else:
        print_job(job)


@dead_letters.command("discard")
def discard_dead_letter(
    dead_letter_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Put a dead letter away; its job stays as it ended."""
    with connect(data_dir, url, key) as onelane:
        onelane.dead_letters.discard(dead_letter_id)
    if json:
        print_json({"discarded": dead_letter_id})
    else:
        console.print(f"discarded {dead_letter_id}", markup=False)


def reconcile(url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Make Redis hold what SQL says, now; after a loss of Redis it happens by itself."""
    with connect(data_dir, url, key) as onelane:
        report = onelane.reconcile()
    if json:
        print_json(report)
    else:
        console.print(
            f"{report['requeued']} requeued (Redis did not have them), {report['released']} released (held by dead "
            f"workers), {report['orphaned']} orphaned (nothing to run; removed)",
            markup=False,
        )


@keys.command("create")
def create_key(
    account: Annotated[str | None, typer.Argument(help="Whose own rows it opens.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="A key for everything, straight into the database.")] = False,
    name: Annotated[str, typer.Option(help="A note, to know it by.")] = "",
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make an API key for ACCOUNT, or with --admin one for everything. It is shown once."""
    if admin == (account is not None):
        raise typer.BadParameter("give an account, or --admin; not both")
    if account is not None:
        with connect(data_dir, url, key) as onelane:
            made = onelane.accounts.create_key(account, name)
    else:
        made = _create_admin_key(data_dir, name)
    if json:
        print_json(made)
    else:
        console.print(made["key"], markup=False, soft_wrap=True)


def _create_admin_key(data_dir: Path | None, name: str) -> Resource:
    from tenants.database import Database
    from tenants.store import keys as store

    database = Database(load(data_dir).database_url)
    secret = store.make_key()
    try:
        row = database.write(
            lambda connection: store.create(connection, secret, scope="admin", account=None, name=name)
        )
    finally:
        database.close()
    return {"id": row["id"], "scope": "admin", "name": name, "key": secret}


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


def _show(found: Iterable[Resource], columns: tuple[str, ...], *, json: bool, empty: str) -> None:
    rows = list(found)
    if json:
        print_json({"items": rows})
    else:
        print_table(rows, columns, empty=empty)


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
