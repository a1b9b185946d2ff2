"""`onelane accounts export | erase | erasures`: all data of an account."""

from __future__ import annotations

import json as json_text
import sys
import time
from typing import Annotated

import typer

from ..client import ExportCut, Resource
from ..exit_codes import FAILED
from ..terminal import console, fail, print_lines
from .accounts import group as accounts
from .context import Caller, Limit
from .options import AccountArgument
from .output import print_table

_POLL_SECONDS = 0.5


@accounts.command("export")
def export_account(account: AccountArgument, caller: Caller) -> None:
    """Print all data of ACCOUNT as lines of JSON; status 1 if the stream was cut."""
    with caller.connect() as onelane:
        try:
            for line in onelane.accounts.export(account):
                print_lines([json_text.dumps(line, ensure_ascii=False, separators=(",", ":"))])
        except ExportCut as error:
            fail(str(error))
            raise typer.Exit(FAILED) from None


@accounts.command("erase")
def erase_account(
    account: AccountArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Kill running steps.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the erasure is completed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    caller: Caller,
) -> None:
    """Erase ACCOUNT and all its data. This cannot be undone."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Erase account {account!r} and all its data?", abort=True, err=True)
    with caller.connect() as onelane:
        begun = onelane.accounts.erase(account, force=force)
        found = onelane.accounts.erasure(begun["erasure_id"])
        while wait and found["status"] != "completed":
            time.sleep(_POLL_SECONDS)
            found = onelane.accounts.erasure(begun["erasure_id"])
    caller.show(found, _print_erasure)


@accounts.command("erasures")
def list_erasures(
    *,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    erasure_id: Annotated[
        str | None, typer.Option("--id", help="Only this one, with the numbers of removed rows.")
    ] = None,
    limit: Limit = 50,
    caller: Caller,
) -> None:
    """List erasures, or show one: its progress, and what was removed."""
    with caller.connect() as onelane:
        if erasure_id is not None:
            caller.show(onelane.accounts.erasure(erasure_id), _print_erasure)
            return
        columns = ("id", "account", "status", "remaining", "created_at", "finished_at")
        caller.show_rows(lambda: onelane.accounts.erasures(limit=limit, account=account), columns, empty="no erasures")


def _print_erasure(found: Resource) -> None:
    head = f"erasure {found['id']} of {found['account']}: {found['status']}"
    if found["status"] == "completed":
        head += f", {found['remaining']} left"
    console.print(head, markup=False, soft_wrap=True)
    rows = [{"of": kind, "removed": number} for kind, number in found["removed"].items() if number]
    print_table(rows, ("of", "removed"), empty="nothing was removed yet")
