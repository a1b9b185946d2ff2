"""`onelane keys …` and `onelane admin-keys …`: API keys of accounts, and those with scope admin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import Resource
from ..terminal import console
from .context import Caller, CommandGroup, Limit, load, read_time
from .options import AccountArgument

keys = CommandGroup("Make, list and end API keys.")
admin_keys = CommandGroup("Make, list, replace and end API keys with scope admin.")

Overlap = Annotated[
    float | None, typer.Option(min=0, help="Seconds for which the old key stays valid; the default is a day.")
]
ExpiresAt = Annotated[str | None, typer.Option(help="When the key expires: a time with offset.")]
KeyId = Annotated[str, typer.Argument(help="The key's id.")]
Name = Annotated[str, typer.Option(help="A note, to recognise it.")]

_COLUMNS = ("id", "name", "hint", "created_at", "expires_at", "last_used_at")


@keys.command("create")
def create_key(
    *,
    account: Annotated[str | None, typer.Argument(help="The account whose rows the key may access.")] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="A key with scope admin, written to the database directly.")
    ] = False,
    name: Name = "",
    expires_at: ExpiresAt = None,
    caller: Caller,
) -> None:
    """Create an API key for ACCOUNT, or with --admin one with scope admin. It is shown once."""
    if admin == (account is not None):
        raise typer.BadParameter("give an account, or --admin; not both")
    moment = read_time("--expires-at", expires_at)
    if account is not None:
        with caller.connect() as onelane:
            made: Resource = onelane.accounts.create_key(account, name, expires_at=moment)
    else:
        made = _create_admin_key(caller.data_dir, name, moment)
    caller.show(made, _print_key)


@keys.command("list")
def list_keys(account: AccountArgument, *, limit: Limit = 50, caller: Caller) -> None:
    """List ACCOUNT's keys, without the secrets."""
    with caller.connect() as onelane:
        caller.show_rows(lambda: onelane.accounts.keys(account, limit=limit), _COLUMNS, empty="no keys")


@keys.command("delete")
def delete_key(
    account: AccountArgument,
    key_id: Annotated[str | None, typer.Argument(help="The key's id.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every key of ACCOUNT.")] = False,
    caller: Caller,
) -> None:
    """Revoke a key of ACCOUNT, or with --all all of them, at once."""
    if every == (key_id is not None):
        raise typer.BadParameter("give a key's id, or --all; not both")
    with caller.connect() as onelane:
        if key_id is not None:
            onelane.accounts.delete_key(account, key_id)
        else:
            onelane.accounts.delete_keys(account)
    caller.report({"deleted": key_id or "all"}, f"revoked {key_id or f'all keys of {account}'}")


@keys.command("rotate")
def rotate_key(
    account: AccountArgument, key_id: KeyId, *, overlap: Overlap = None, expires_at: ExpiresAt = None, caller: Caller
) -> None:
    """Replace a key of ACCOUNT without an outage. The new one is shown once."""
    moment = read_time("--expires-at", expires_at)
    with caller.connect() as onelane:
        made = onelane.accounts.rotate_key(account, key_id, overlap_seconds=overlap, expires_at=moment)
    caller.show(made, _print_key)


@admin_keys.command("create")
def create_admin_key(*, name: Name = "", expires_at: ExpiresAt = None, caller: Caller) -> None:
    """Create a key with scope admin; without a service, use `keys create --admin`. It is shown once."""
    moment = read_time("--expires-at", expires_at)
    with caller.connect() as onelane:
        made = onelane.keys.create(name, expires_at=moment)
    caller.show(made, _print_key)


@admin_keys.command("list")
def list_admin_keys(*, limit: Limit = 50, caller: Caller) -> None:
    """List the keys with scope admin in the database; that of the settings is not among them."""
    with caller.connect() as onelane:
        caller.show_rows(lambda: onelane.keys.list(limit=limit), _COLUMNS, empty="no keys")


@admin_keys.command("rotate")
def rotate_admin_key(key_id: KeyId, *, overlap: Overlap = None, expires_at: ExpiresAt = None, caller: Caller) -> None:
    """Replace a key with scope admin without an outage. The new one is shown once."""
    moment = read_time("--expires-at", expires_at)
    with caller.connect() as onelane:
        made = onelane.keys.rotate(key_id, overlap_seconds=overlap, expires_at=moment)
    caller.show(made, _print_key)


@admin_keys.command("delete")
def delete_admin_key(key_id: KeyId, caller: Caller) -> None:
    """Revoke a key with scope admin, at once."""
    with caller.connect() as onelane:
        onelane.keys.delete(key_id)
    caller.report({"deleted": key_id}, f"revoked {key_id}")


def _print_key(made: Resource) -> None:
    console.print(made["key"], markup=False, soft_wrap=True)


def _create_admin_key(data_dir: Path | None, name: str, expires_at: Any) -> Resource:
    from tenants.database.transactions import Database
    from tenants.store.accounts import keys as store

    database = Database(load(data_dir).database_url)
    secret = store.make_key()
    try:
        row = database.write(
            lambda connection: store.create(
                connection, secret, scope="admin", account=None, name=name, expires_at=expires_at
            )
        )
    finally:
        database.close()
    return {"id": row["id"], "scope": "admin", "name": name, "key": secret}
