"""Connections to PostgreSQL: their settings, and whether a connection has a session of the server for itself.

A pooler such as pgbouncer in transaction mode gives a client another session of the server for each transaction. There
a prepared statement may be missing or another client's, and so may a session's settings.

Invariants
- A connection counts as direct only if the server returns two values that belong to this connection: a random number
  that it sent among its start-up options, and its process id. Only direct connections use named statements.
- On any other connection (shared) nothing depends on the session: no statement has a name, and each transaction begins
  by setting for itself what a direct connection sets once.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import sql
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .url import options_of, parse

#: Seconds after which the server cancels a statement.
STATEMENT_TIMEOUT_SECONDS = 30
#: Settings for each statement of ours.
SESSION_SETTINGS = {
    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "jit": "off",
    # A plan is kept with the connection: one that was made while a table was small must not scan it later. Every query
    # has an index.
    "enable_seqscan": "off",
}

#: Marks a connection's `info` where it is shared.
_SHARED = "onelane_shared"
#: The setting that carries a direct connection's random number.
_PROOF = "onelane.session"
#: Each statement is prepared at its second use: planning costs more than running these short statements.
_PREPARE_THRESHOLD = 2
#: How poolers refuse start-up options: pgbouncer, then Amazon's RDS Proxy.
_REFUSED_OPTIONS = re.compile(r"unsupported startup parameter|command-line options")


def check_url(text: str) -> None:
    """Check the database's URL, its `options` too.

    Raises:
        InvalidDatabaseUrl: it cannot be used for a `Database`.
    """
    url = parse(text)
    if url.drivername != "sqlite":
        options_of(url, os.environ, SESSION_SETTINGS)


class PostgresSessions:
    """Opens the connections of one engine."""

    def __init__(self, url: URL, settings: Mapping[str, str] = SESSION_SETTINGS) -> None:
        """`settings` are names and values for each session; the URL's `options` are added.

        Raises:
            InvalidDatabaseUrl: the URL's `options` cannot be merged with them.
        """
        self._settings = {**options_of(url, os.environ, settings), **settings}
        #: Whether the last connection that was opened is shared; None before the first one.
        self.shared: bool | None = None
        pairs = [
            sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
            for name, value in self._settings.items()
        ]
        self._set_local = sql.SQL("SELECT ") + sql.SQL(", ").join(pairs)

    def serve(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "begin", self._begin)

    def begin(self, pooled: PoolProxiedConnection) -> None:
        """Begin a transaction on a shared connection with our settings in force until its end."""
        driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
        driver.execute(self._set_local)

    @contextmanager
    def autocommit(self, pooled: PoolProxiedConnection) -> Iterator[None]:
        """For one statement that is committed by its end; on a shared connection it has a transaction around it."""
        driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
        if is_shared(pooled):
            with driver.transaction():
                self.begin(pooled)
                yield
            return
        driver.autocommit = True
        try:
            yield
        finally:
            if not driver.closed:
                driver.autocommit = False

    def _begin(self, connection: Connection) -> None:
        if is_shared(connection.connection):
            self.begin(connection.connection)

    def _connect(
        self, dialect: Dialect, record: ConnectionPoolEntry, arguments: Any, parameters: dict[str, Any]
    ) -> DBAPIConnection:
        proof = secrets.token_hex(16)
        # No statement may have a name before the connection is known to be direct.
        parameters = {**parameters, "prepare_threshold": None}
        try:
            connection = dialect.connect(
                *arguments, **{**parameters, "options": _as_options({**self._settings, _PROOF: proof})}
            )
        except psycopg.OperationalError as error:
            if not _REFUSED_OPTIONS.search(str(error)):
                raise
            # An empty value: without any, libpq would use PGOPTIONS.
            connection = dialect.connect(*arguments, **{**parameters, "options": ""})
        driver = cast("psycopg.Connection[Any]", connection)
        try:
            self.shared = not _is_direct(driver, proof)
            if not self.shared:
                driver.prepare_threshold = _PREPARE_THRESHOLD
            else:
                record.info[_SHARED] = True
        except BaseException:
            driver.close()
            raise
        return connection


def is_shared(pooled: PoolProxiedConnection) -> bool:
    """Whether the server's session may serve other clients between two transactions."""
    return _SHARED in pooled.info


def _is_direct(driver: psycopg.Connection[Any], proof: str) -> bool:
    driver.autocommit = True
    row = driver.execute(f"SELECT current_setting('{_PROOF}', true), pg_backend_pid()").fetchone()
    driver.autocommit = False
    return row == (proof, driver.info.backend_pid)


def _as_options(settings: Mapping[str, str]) -> str:
    """In the form of libpq's `options`: a space or a backslash of a value needs a backslash before it."""
    escaped = {name: re.sub(r"([\\\s])", r"\\\1", value) for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())
