"""The database's schema at the start of a process: looked at by all, brought up to date by `up` and `migrate` alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tenants.migrations import newest_revision

if TYPE_CHECKING:
    from tenants.database import Database

_SQLITE = "sqlite:///"


def is_surely_up_to_date(url: str) -> bool:
    """Whether a SQLite file has the newest revision; False also where that takes more to find out.

    A start of `up` nearly always finds nothing to do, and this finds it without importing the store.
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
    # Of any other protocol the long way takes care.
    return found == [(newest_revision(),)] and not kept


def missing_revisions(database: Database) -> list[str]:
    """The migrations that the schema lacks, oldest first.

    Raises:
        Unavailable: the database cannot be reached.
        NewerRelease: the data belong to a release that this one does not understand.
    """
    if database.dialect == "sqlite" and database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    # First, because it alone tells in one sentence that nobody answers.
    database.ping()
    missing = database.pending_migrations()
    if not missing:
        from tenants.store import protocol

        protocol.check(database)
    return missing


def bring_up_to_date(url: str) -> list[str]:
    """Run the migrations that the schema at `url` lacks; gives back which.

    Raises:
        Unavailable: the database cannot be reached.
    """
    from tenants.database import Database

    database = Database(url)
    try:
        missing = missing_revisions(database)
        if missing:
            database.migrate()
        from tenants.store import protocol

        if database.read(protocol.of) < protocol.PROTOCOL:
            database.write(protocol.take_over)
        return missing
    finally:
        database.close()
