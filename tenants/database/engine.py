"""SQLAlchemy's engine for a database's URL, and what holds on each of its connections to SQLite."""

from __future__ import annotations

import functools
import random
import sqlite3
import time
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from . import sqlite_writer_lock
from .columns import sqlite_now, sqlite_seconds_since
from .postgres_sessions import PostgresSessions
from .sqlite_writer_lock import WriterLock, is_busy

#: Seconds after which a connection is closed whose other end acknowledges nothing.
TCP_SECONDS = 20
#: The execution option of a connection to SQLite whose transaction only reads.
READ_ONLY = "onelane_reads"

#: For libpq, where the URL does not say otherwise.
_CONNECT_DEFAULTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # No keepalives are sent while sent data waits for its acknowledgement. Without this, a statement to a host that
    # vanished waits until the kernel closes the connection, a quarter of an hour.
    "tcp_user_timeout": TCP_SECONDS * 1000,
}


def is_sqlite(url: URL) -> bool:
    return url.drivername.split("+")[0] == "sqlite"


def make_sqlite_engine(url: URL, pool_size: int, writer_lock: WriterLock) -> Engine:
    """Connect nothing yet. `writer_lock` begins the transactions that write."""
    # SQLite's own busy handler pauses up to 100 ms between two tries: `WriterLock` and `Database.read` wait.
    engine = create_engine(url, connect_args={"timeout": 0}, **_pool(pool_size))
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", functools.partial(_begin_on_sqlite, writer_lock))
    return engine


def make_postgres_engine(url: URL, pool_size: int, sessions: PostgresSessions) -> Engine:
    """Connect nothing yet. `sessions` opens the connections."""
    # What the URL says itself about these is kept.
    defaults = {name: value for name, value in _CONNECT_DEFAULTS.items() if name not in url.query}
    engine = create_engine(url, connect_args=defaults, **_pool(pool_size))
    sessions.serve(engine)
    return engine


def _pool(size: int) -> dict[str, Any]:
    # The connection that was used last is used next: its statements are prepared, and its server's caches are warm.
    return {"pool_size": size, "max_overflow": 0, "pool_timeout": 10, "pool_use_lifo": True}


def _set_up_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # The driver must not begin by itself: `_begin_on_sqlite` chooses how.
    connection.isolation_level = None
    _write_ahead(connection)
    # FULL: a commit that was answered 202 survives the loss of power too.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA cache_size=-65536")
    # The statement journal of a batch went to a file. Sorting uses memory too; that is little but for a migration's
    # indexes.
    connection.execute("PRAGMA temp_store=MEMORY")
    # In pages: 16 MB. Each step writes the same pages again; a checkpoint copies them once for all of these.
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    connection.create_function("onelane_now", 1, sqlite_now)
    connection.create_function("onelane_seconds_since", 1, sqlite_seconds_since)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, which changes a new database for good and the others not.

    SQLite does not wait for the lock that this needs while others read, or switch as well; and several processes that
    a host starts together may open a new database at once.
    """
    end = time.monotonic() + sqlite_writer_lock.BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def _begin_on_sqlite(lock: WriterLock, connection: Connection) -> None:
    if connection.get_execution_options().get(READ_ONLY):
        connection.exec_driver_sql("BEGIN")
        return
    try:
        lock.begin(cast("sqlite3.Connection", connection.connection.driver_connection))
    except sqlite3.Error as error:
        raise OperationalError("BEGIN IMMEDIATE", None, error) from error
