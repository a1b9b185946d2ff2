"""`onelane accounts export | erase | erasures`, `onelane keys rotate` and `onelane admin-keys …`."""

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
from .accounts import keys
from .context import Caller, Limit, expand_options, read_time
from .options import AccountArgument
from .output import print_table

admin_keys = typer.Typer(help="Make, list, replace and end API keys with scope admin.", no_args_is_help=True)

_POLL_SECONDS = 0.5


@accounts.command("export")
@expand_options
def export_account(account: AccountArgument, caller: Caller) -> None:
    """Print everything held of ACCOUNT as lines of JSON; status 1 if it was cut."""
    with caller.connect() as onelane:
        try:
            for line in onelane.accounts.export(account):
                print_lines([json_text.dumps(line, ensure_ascii=False, separators=(",", ":"))])
        except ExportCut as error:
            fail(str(error))
            raise typer.Exit(FAILED) from None


@accounts.command("erase")
@expand_options
def erase_account(
    account: AccountArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Kill what runs.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing is left.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    caller: Caller,
) -> None:
    """Erase ACCOUNT and everything held of it. There is no way back."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Erase account {account!r} and everything held of it?", abort=True, err=True)
    with caller.connect() as onelane:
        begun = onelane.accounts.erase(account, force=force)
        found = onelane.accounts.erasure(begun["erasure_id"])
        while wait and found["status"] != "completed":
            time.sleep(_POLL_SECONDS)
            found = onelane.accounts.erasure(begun["erasure_id"])
    caller.show(found, _print_erasure)


@accounts.command("erasures")
@expand_options
def list_erasures(
    *,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    erasure_id: Annotated[str | None, typer.Option("--id", help="Only this one, with all that was removed.")] = None,
    limit: Limit = 50,
    caller: Caller,
) -> None:
    """List erasures, or show one: how far it is, and what was removed."""
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


Overlap = Annotated[
    float | None, typer.Option(min=0, help="Seconds for which the old one opens too; a day when not given.")
]
ExpiresAt = Annotated[str | None, typer.Option(help="When the new one ends, with its offset.")]
KeyId = Annotated[str, typer.Argument(help="The key's id.")]


@keys.command("rotate")
@expand_options
def rotate_key(
    account: AccountArgument, key_id: KeyId, *, overlap: Overlap = None, expires_at: ExpiresAt = None, caller: Caller
) -> None:
    """Replace a key of ACCOUNT without a gap. The new one is shown once."""
    moment = read_time("--expires-at", expires_at)
    with caller.connect() as onelane:
        made = onelane.accounts.rotate_key(account, key_id, overlap_seconds=overlap, expires_at=moment)
    caller.show(made, _print_key)


@admin_keys.command("create")
@expand_options
def create_admin_key(
    *,
    name: Annotated[str, typer.Option(help="A note, to know it by.")] = "",
    expires_at: ExpiresAt = None,
    caller: Caller,
) -> None:
    """Make a key with scope admin over HTTP; `keys create --admin` makes one without a service. It is shown once."""
    moment = read_time("--expires-at", expires_at)
    with caller.connect() as onelane:
        made = onelane.keys.create(name, expires_at=moment)
    caller.show(made, _print_key)


@admin_keys.command("list")
@expand_options
def list_admin_keys(*, limit: Limit = 50, caller: Caller) -> None:
    """List the keys with scope admin that the database has; that of the settings is not among them."""
    with caller.connect() as onelane:
        columns = ("id", "name", "hint", "created_at", "expires_at", "last_used_at")
        caller.show_rows(lambda: onelane.keys.list(limit=limit), columns, empty="no keys")


@admin_keys.command("rotate")
@expand_options
def rotate_admin_key(key_id: KeyId, *, overlap: Overlap = None, expires_at: ExpiresAt = None, caller: Caller) -> None:
    """Replace a key with scope admin without a gap. The new one is shown once."""
    moment = read_time("--expires-at", expires_at)
    with caller.connect() as onelane:
        made = onelane.keys.rotate(key_id, overlap_seconds=overlap, expires_at=moment)
    caller.show(made, _print_key)


@admin_keys.command("delete")
@expand_options
def delete_admin_key(key_id: KeyId, caller: Caller) -> None:
    """End a key with scope admin, at once."""
    with caller.connect() as onelane:
        onelane.keys.delete(key_id)
    caller.tell({"deleted": key_id}, f"ended {key_id}")


def _print_key(made: Resource) -> None:
    console.print(made["key"], markup=False, soft_wrap=True)
