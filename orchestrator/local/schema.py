"""The database's schema: every process checks it at its start, `up` and `migrate` bring it up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tenants.migrations import migrate, newest_revision, pending

if TYPE_CHECKING:
    from tenants.database.transactions import Database

_SQLITE = "sqlite:///"


def is_surely_up_to_date(url: str) -> bool:
    """True if a SQLite file has the newest revision; False if that is not certain.

    It does not import the store, so that a start of `up` without migrations is fast.
    """
    path = Path(url.removeprefix(_SQLITE))
    if not url.startswith(_SQLITE) or "?" in url or not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            kept = connection.execute("SELECT value FROM meta WHERE key = 'protocol'").fetchall()
    except sqlite3.Error:
        return False
    # Another protocol is left to the full check.
    return found == [(newest_revision(),)] and not kept


def missing_revisions(database: Database) -> list[str]:
    """The migrations that the schema lacks, oldest first.

    Raises:
        Unavailable: the database cannot be reached.
        NewerRelease: the data belong to a release that this one does not understand.
    """
    if database.dialect == "sqlite" and database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    # First, because its error says in one sentence that no server answers.
    database.ping()
    missing = pending(database)
    if not missing:
        from tenants.store import protocol

        protocol.check(database)
    return missing


def bring_up_to_date(url: str) -> list[str]:
    """Run the missing migrations of the schema at `url`, and return them.

    Raises:
        Unavailable: the database cannot be reached.
    """
    from tenants.database.transactions import Database

    database = Database(url)
    try:
        missing = missing_revisions(database)
        if missing:
            migrate(database)
        from tenants.store import protocol

        if database.read(protocol.of) < protocol.PROTOCOL:
            database.write(protocol.take_over)
        return missing
    finally:
        database.close()
