"""A database that answers and takes no writes is named as that, with the reason, until a write succeeds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from tenants.database.transactions import Database
from tenants.errors import NotWritable
from tenants.store import meta, writability
from tests.tenants.store.shared_batch import run_statement

on_postgresql = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
sqlite_only = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)


def put_all(connection: Connection, keys: Sequence[str]) -> list[None]:
    for key in keys:
        meta.put(connection, key, "b")
    return [None] * len(keys)


def for_each_connection(database: Database, do: Callable[[sqlite3.Connection], object]) -> None:
    database.engine.dispose()
    event.listen(database.engine, "connect", lambda raw, _: do(raw))


@sqlite_only
def test_a_full_disk_on_sqlite_is_over_only_when_there_is_room_for_much(database: Database) -> None:
    pages = database.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    for_each_connection(database, lambda raw: raw.execute(f"PRAGMA max_page_count = {pages + 8}"))
    with pytest.raises(NotWritable, match="the database's disk is full") as raised:
        database.write(lambda c: meta.put(c, "large", "x" * 1_000_000))
    assert raised.value.reason == database.not_writable == "disk_full"
    database.write(lambda c: meta.put(c, "small", "x"))
    assert writability.reason(database) == "disk_full", "a small write proves nothing"
    for_each_connection(database, lambda raw: raw.execute("PRAGMA max_page_count = 1000000"))
    assert writability.reason(database) is None
    assert database.not_writable is None


@sqlite_only
@pytest.mark.parametrize("in_batch", [False, True])
def test_a_read_only_sqlite_is_named(database: Database, in_batch: bool) -> None:
    for_each_connection(database, lambda raw: raw.execute("PRAGMA query_only = ON"))

    def write() -> None:
        if in_batch:
            database.batch(put_all, "a")
        else:
            database.write(lambda c: meta.put(c, "a", "b"))

    with pytest.raises(NotWritable, match="read-only, or a replica"):
        write()
    assert database.not_writable == "read_only"
    assert writability.reason(database) == "read_only"


@on_postgresql
@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize(("state", "reason"), [("53100", "disk_full"), ("58030", "disk_failed")])
def test_what_postgresql_could_not_write_is_named(database: Database, state: str, reason: str, in_batch: bool) -> None:
    statement = f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"

    def write() -> object:
        return run_statement(database, statement) if in_batch else database.write(lambda c: c.execute(text(statement)))

    with pytest.raises(NotWritable) as raised:
        write()
    assert raised.value.reason == database.not_writable == reason
    assert writability.reason(database) is None, "it can be written to"


@on_postgresql
def test_a_replica_is_named(database: Database) -> None:
    """As one does, its sessions begin read-only transactions."""

    def make(value: str) -> None:
        def work(connection: Any) -> None:
            name = connection.execute(text("SELECT current_database()")).scalar_one()
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'))

        database.write(work) if value == "on" else outside(database, value)
        database.engine.dispose()

    make("on")
    with pytest.raises(NotWritable, match="read-only, or a replica"):
        database.write(lambda c: meta.put(c, "a", "b"))
    assert writability.reason(database) == "read_only"
    assert database.read(lambda c: meta.get_many(c, "a")) == {}
    make("off")
    assert writability.reason(database) is None


def outside(database: Database, value: str) -> None:
    """From a session that sets itself free of what the database's sessions begin with."""
    with database.engine.connect() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.rollback()
        connection.execute(text("SET TRANSACTION READ WRITE"))
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'))
        connection.commit()
