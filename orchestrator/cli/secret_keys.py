"""`onelane secrets …`: the key with which sessions, credentials and webhook secrets are sealed.

It works on the database directly, because no HTTP call may have such a key.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from ..exit_codes import FAILED
from ..terminal import console, print_json, say
from .context import CommandGroup, DataDir, Json, load
from .output import print_table

group = CommandGroup("Change the key that seals sessions and secrets.")


@group.command("rotate")
def rotate(data_dir: DataDir = None, json: Json = False) -> None:
    """Seal all values again with the first secret key. Safe while the service runs; it can be interrupted and repeated.

    Every process must have both keys before (ONELANE_SECRET_KEY=new,old); afterwards the old one can be removed.
    """
    from tenants.database.transactions import Database
    from tenants.secrets.key_rotation import reseal
    from tenants.secrets.sealing import Sealer, split_keys

    from ..local.data_folder import DataFolder
    from ..local.schema import missing_revisions
    from ..settings import SettingsError

    settings = load(data_dir)
    secret = settings.secret_key
    kept = secret.get_secret_value() if secret is not None else DataFolder(settings.data_dir).kept_key("secret")
    if kept is None:
        raise SettingsError(settings.missing("secret_key"))
    database = Database(settings.database_url, pool_size=2)
    try:
        if missing_revisions(database):
            raise SettingsError(["the database lacks migrations: run `onelane migrate` first"])
        done = reseal(database, Sealer(split_keys(kept)), on_batch=lambda number: _print_progress(number, json=json))
    finally:
        database.close()
    if json:
        print_json(asdict(done))
    else:
        _print(asdict(done))
    if done.unreadable:
        raise typer.Exit(FAILED)


def _print_progress(number: int, *, json: bool) -> None:
    if number and not json:
        say(f"{number} sealed again")


def _print(done: dict[str, Any]) -> None:
    rows = [{"value": label, "sealed again": number} for label, number in done["resealed"].items()]
    print_table(rows, ("value", "sealed again"), empty="")
    if done["overtaken"]:
        console.print(f"{done['overtaken']} were changed by another call meanwhile", markup=False)
    for sentence in done["unreadable"]:
        console.print(f"left as it is: {sentence}", markup=False, soft_wrap=True)
    if not done["unreadable"]:
        console.print(
            "everything is sealed with the first key; the others can be removed from ONELANE_SECRET_KEY",
            markup=False,
            soft_wrap=True,
        )
