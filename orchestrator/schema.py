"""The database's schema at the start of a process: looked at by all, brought up to date by `up` and `migrate` alone."""

from __future__ import annotations

from pathlib import Path

from tenants.database import Database


def missing_revisions(database: Database) -> list[str]:
    """The migrations that the schema lacks, oldest first.

    Raises:
        Unavailable: the database cannot be reached.
    """
    if database.dialect == "sqlite" and database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    # First, because it alone tells in one sentence that nobody answers.
    database.ping()
    return database.pending_migrations()


def bring_up_to_date(url: str) -> list[str]:
    """Run the migrations that the schema at `url` lacks; gives back which.

    Raises:
        Unavailable: the database cannot be reached.
    """
    database = Database(url)
    try:
        missing = missing_revisions(database)
        if missing:
            database.migrate()
        return missing
    finally:
        database.close()
