"""Whether the database can be written to now: asked by a write, since nothing else proves it."""

from __future__ import annotations

from ..database import Database
from ..errors import Unavailable
from . import meta

_KEY = "last_written_by_a_check"
#: Characters that are written while the database was last found not writable. A full disk often has room for a byte:
#: SQLite writes over its own log, and PostgreSQL fills a page.
_MANY = 512 * 1024


def check(database: Database) -> None:
    """Write a little; where a write has failed before, much, and note that the database is well again if it succeeds.

    Raises:
        NotWritable, Unavailable: as any write.
    """
    size = _MANY if database.not_writable else 1
    database.write(lambda connection: meta.put(connection, _KEY, "x" * size))
    if size > 1:
        database.write(lambda connection: meta.put(connection, _KEY, "x"))
    database.not_writable = None


def reason(database: Database) -> str | None:
    """Why it cannot be written to, as one word, or None; asks by `check` where it was not writable before.

    Raises:
        Unavailable: the database cannot be reached.
    """
    try:
        check(database)
    except Unavailable:
        if database.not_writable is None:
            raise
    return database.not_writable
