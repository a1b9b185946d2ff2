"""Translates drivers' errors: the database is unreachable, or it answers and takes no writes, with the reason."""

from __future__ import annotations

import sqlite3

import psycopg

from ..errors import NotWritable, Unavailable, in_one_line

_MESSAGES = {
    "disk_full": "the database's disk is full",
    "read_only": "the database takes no writes: it is read-only, or a replica",
    "disk_failed": "the database could not write to its disk",
}
#: PostgreSQL's codes: disk_full; read_only_sql_transaction; io_error.
_STATES = {"53100": "disk_full", "25006": "read_only", "58030": "disk_failed"}
#: SQLite's primary codes. Of the I/O errors only those of writes; the others mean that the file cannot be read.
_CODES = {sqlite3.SQLITE_FULL: "disk_full", sqlite3.SQLITE_READONLY: "read_only"}
_WRITE_ERRORS = frozenset(
    {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)


def unavailable(error: BaseException) -> Unavailable:
    """The error to raise for a driver's error: `NotWritable` if the database takes no writes."""
    reason = _reason(error)
    if reason is None:
        return Unavailable(f"the database failed: {in_one_line(error)}")
    return NotWritable(f"{_MESSAGES[reason]} ({in_one_line(error)})", reason)


def sentence(reason: str) -> str:
    """The reason as a sentence, without the driver's message."""
    return _MESSAGES[reason]


def _reason(error: BaseException) -> str | None:
    if isinstance(error, psycopg.Error):
        return _STATES.get(error.sqlstate or "")
    code = getattr(error, "sqlite_errorcode", 0)
    return "disk_failed" if code in _WRITE_ERRORS else _CODES.get(code & 0xFF)
