"""The commands that speak to a service over HTTP: accounts, queues, dead-letters, keys; other groups join here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..client import Resource
from . import FAILED, drafts, jobs, schedules
from .context import Account, Caller, Limit, expand_options, load
from .output import console, print_account, print_job, print_table

accounts = typer.Typer(help="Look at accounts.", no_args_is_help=True)
queues = typer.Typer(help="List, check and delete live tenant queues.", no_args_is_help=True)
dead_letters = typer.Typer(help="List, replay and discard steps that will not be tried again.", no_args_is_help=True)
keys = typer.Typer(help="Make API keys.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Hang the groups into the command line."""
    for name, group in (
        ("jobs", jobs.group),
        ("drafts", drafts.group),
        ("publications", drafts.publications),
        ("schedules", schedules.group),
        ("accounts", accounts),
        ("queues", queues),
        ("dead-letters", dead_letters),
        ("keys", keys),
    ):
        app.add_typer(group, name=name)
    app.command("reconcile")(reconcile)


@accounts.command("get")
@expand_options
def get_account(account: str, caller: Caller) -> None:
    """Show an account: status, lanes, session, target, usage."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.get(account), _print_with_lanes)


def _print_with_lanes(found: Resource) -> None:
    print_account(found)
    columns = ("lane", "queue", "waiting", "active", "delayed", "oldest_wait", "paused")
    print_table(found["lanes"], columns, empty="no live tenant queues")


@queues.command("list")
@expand_options
def list_queues(
    *,
    lane: Annotated[str | None, typer.Option(help="Only of this lane.")] = None,
    account: Account = None,
    idle_longer_than: Annotated[float | None, typer.Option(min=0, help="Unused for so many seconds.")] = None,
    limit: Limit = 200,
    caller: Caller,
) -> None:
    """List live tenant queues."""
    with caller.connect() as onelane:
        found = onelane.queues.list(limit=limit, lane=lane, account=account, idle_longer_than=idle_longer_than)
        columns = ("queue", "lane", "account", "waiting", "active", "delayed", "last_used_at", "paused")
        caller.show_rows(found, columns, empty="no live tenant queues")


@queues.command("delete")
@expand_options
def delete_queue(
    lane: str,
    account: str,
    *,
    force: Annotated[bool, typer.Option("--force", help="Cancel what waits in it.")] = False,
    caller: Caller,
) -> None:
    """Tear a tenant queue down; one with waiting steps only with --force."""
    with caller.connect() as onelane:
        answer = onelane.queues.delete(lane, account, force=force)
        caller.tell(answer, f"deleted {lane}_{account}; {answer['cancelled']} cancelled")


@queues.command("check")
@expand_options
def check_queues(caller: Caller) -> None:
    """Check that every message is in one place and every slot is a lease; mend what is not. Status 1 if it was not."""
    with caller.connect() as onelane:
        report = onelane.queues.check()
    caller.show(report, _print_check)
    if report["violations"]:
        raise typer.Exit(FAILED)


def _print_check(report: Resource) -> None:
    print_table(report["items"], ("lane", "account", "kind", "detail"), empty="every invariant holds")
    console.print(f"{report['violations']} violations in {len(report['lanes'])} lanes", markup=False)


@dead_letters.command("list")
@expand_options
def list_dead_letters(
    *,
    account: Account = None,
    lane: Annotated[str | None, typer.Option(help="Only of this lane.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only of this pipeline.")] = None,
    error_code: Annotated[str | None, typer.Option(help="Only with this error code.")] = None,
    limit: Limit = 50,
    caller: Caller,
) -> None:
    """List dead letters, newest first."""
    with caller.connect() as onelane:
        filters = {"account": account, "lane": lane, "pipeline": pipeline, "error_code": error_code}
        found = onelane.dead_letters.list(limit=limit, **filters)
        columns = ("id", "account", "lane", "actor", "error_code", "attempt_count", "created_at")
        caller.show_rows(found, columns, empty="no dead letters")


@dead_letters.command("replay")
@expand_options
def replay_dead_letter(dead_letter_id: str, caller: Caller) -> None:
    """Let the job go on from the step that died."""
    with caller.connect() as onelane:
        caller.show(onelane.dead_letters.replay(dead_letter_id), print_job)


@dead_letters.command("discard")
@expand_options
def discard_dead_letter(dead_letter_id: str, caller: Caller) -> None:
    """Put a dead letter away; its job stays as it ended."""
    with caller.connect() as onelane:
        onelane.dead_letters.discard(dead_letter_id)
    caller.tell({"discarded": dead_letter_id}, f"discarded {dead_letter_id}")


@expand_options
def reconcile(caller: Caller) -> None:
    """Make Redis hold what SQL says, now; after a loss of Redis it happens by itself."""
    with caller.connect() as onelane:
        report = onelane.reconcile()
    caller.tell(
        report,
        f"{report['requeued']} requeued (Redis did not have them), {report['released']} released (held by dead "
        f"workers), {report['orphaned']} orphaned (nothing to run; removed)",
    )


@accounts.command("webhook-secret")
@expand_options
def rotate_webhook_secret(account: str, caller: Caller) -> None:
    """Make the secret with which ACCOUNT's webhooks are signed; it is shown once, and the old one signs a day more."""
    with caller.connect() as onelane:
        made = onelane.accounts.rotate_webhook_secret(account)
    caller.show(made, lambda answer: console.print(answer["secret"], markup=False, soft_wrap=True))


@keys.command("create")
@expand_options
def create_key(
    *,
    account: Annotated[str | None, typer.Argument(help="Whose own rows it opens.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="A key for everything, straight into the database.")] = False,
    name: Annotated[str, typer.Option(help="A note, to know it by.")] = "",
    caller: Caller,
) -> None:
    """Make an API key for ACCOUNT, or with --admin one for everything. It is shown once."""
    if admin == (account is not None):
        raise typer.BadParameter("give an account, or --admin; not both")
    if account is not None:
        with caller.connect() as onelane:
            made: Resource = onelane.accounts.create_key(account, name)
    else:
        made = _create_admin_key(caller.data_dir, name)
    caller.show(made, lambda _: console.print(made["key"], markup=False, soft_wrap=True))


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
