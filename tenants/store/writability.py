"""Whether the database takes writes now, found by writing."""

from __future__ import annotations

from ..database.transactions import Database
from ..errors import Unavailable
from . import meta

_KEY = "last_written_by_a_check"
#: Characters to write after a write has failed. A full disk often has room for one byte: SQLite overwrites its own log,
#: and PostgreSQL fills a page.
_MANY = 512 * 1024


def check(database: Database) -> None:
    """Write a byte, or many after a failed write; a success clears `Database.not_writable`.

    Raises:
        NotWritable, Unavailable: as any write.
    """
    size = _MANY if database.not_writable else 1
    database.write(lambda connection: meta.put(connection, _KEY, "x" * size))
    if size > 1:
        database.write(lambda connection: meta.put(connection, _KEY, "x"))
    database.not_writable = None


def reason(database: Database) -> str | None:
    """Why the database takes no writes (`disk_full`, …), or None, found by `check`.

    Raises:
        Unavailable: the database cannot be reached.
    """
    try:
        check(database)
    except Unavailable:
        if database.not_writable is None:
            raise
    return database.not_writable
