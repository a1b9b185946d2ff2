"""`onelane accounts …`: accounts, their status and usage."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client import Resource
from ..terminal import console
from .account_settings import limits, session, target
from .context import Caller, CommandGroup, Limit, Watch
from .jobs import print_event
from .options import AccountArgument, WithAccountStatus
from .output import print_account, print_table

group = CommandGroup("Look at, limit, pause and steer accounts.")
for _name, _group in (("limits", limits), ("target", target), ("session", session)):
    group.add_typer(_group, name=_name)

_LANES = ("lane", "queue", "waiting", "active", "delayed", "oldest_wait", "paused", "circuit")


@group.command("list")
def list_accounts(
    *,
    q: Annotated[str | None, typer.Option("--search", help="The account begins with this.")] = None,
    status: WithAccountStatus = None,
    limit: Limit = 50,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List accounts, in the order of their names."""
    with caller.connect() as onelane:
        columns = ("account", "status", "created_at", "updated_at")
        caller.show_rows(
            lambda: onelane.accounts.list(limit=limit, q=q, status=status), columns, empty="no accounts", watch=watch
        )


@group.command("get")
def get_account(account: AccountArgument, caller: Caller) -> None:
    """Show an account: status, lanes, session, target, usage."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.get(account), _print_with_lanes)


@group.command("pause")
def pause(account: AccountArgument, caller: Caller) -> None:
    """Pause ACCOUNT: nothing new starts."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.pause(account), _print_with_lanes)


@group.command("resume")
def resume(account: AccountArgument, caller: Caller) -> None:
    """End a pause, drain or suspension of ACCOUNT, and close its circuits."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.resume(account), _print_with_lanes)


@group.command("drain")
def drain(account: AccountArgument, caller: Caller) -> None:
    """Take no new jobs of ACCOUNT; accepted ones finish."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.drain(account), _print_with_lanes)


@group.command("suspend")
def suspend(account: AccountArgument, caller: Caller) -> None:
    """Take no new jobs of ACCOUNT, and start none of its steps."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.suspend(account), _print_with_lanes)


@group.command("usage")
def usage(
    account: AccountArgument,
    *,
    first: Annotated[str | None, typer.Option(help="The first UTC day, such as 2026-11-01.")] = None,
    last: Annotated[str | None, typer.Option(help="The last UTC day; today when not given.")] = None,
    caller: Caller,
) -> None:
    """Show ACCOUNT's usage by UTC day; the default is the last 30 days."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.usage(account, first=first, last=last), _print_usage)


def _print_usage(history: Resource) -> None:
    rows = [*history["items"], {"day": "total", **history["total"]}]
    print_table(rows, ("day", "jobs", "seconds", "tokens", "posts", "bytes"), empty="")


@group.command("events")
def events(account: AccountArgument, caller: Caller) -> None:
    """Print the events of ACCOUNT's jobs until Ctrl-C; with --json a line of JSON for each."""
    with caller.connect() as onelane:
        for event in onelane.accounts.events(account):
            print_event(event.type, event.data, json=caller.json)


@group.command("webhook-secret")
def rotate_webhook_secret(account: AccountArgument, caller: Caller) -> None:
    """Create a new webhook secret of ACCOUNT. It is shown once; the old one also signs for a day."""
    with caller.connect() as onelane:
        made = onelane.accounts.rotate_webhook_secret(account)
    caller.show(made, lambda answer: console.print(answer["secret"], markup=False, soft_wrap=True))


def _print_with_lanes(found: Resource) -> None:
    print_account(found)
    print_table(found["lanes"], _LANES, empty="no live tenant queues")
