"""An account with a row in every table that can hold one, and a look at whatever names an account anywhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Boolean, Column, Connection, DateTime, Float, Integer, LargeBinary, Table, select
from sqlalchemy.types import JSON, TypeDecorator

from orchestrator.runtime import Runtime
from tenants.database.columns import upsert
from tenants.database.models import Model, new_id
from tenants.database.transactions import Database

#: Characters that have a meaning in keys, paths and patterns.
ODD = "erase/me:{ünï}*?"


def account_tables() -> list[Table]:
    """Every table that names an account, those that others refer to first."""
    return [each for each in Model.metadata.sorted_tables if each.name == "accounts" or "account" in each.c]


def fill(connection: Connection, account: str, folder: Path) -> None:
    """Give the account a row in every such table, whatever columns it has; a table added later is filled too.

    Where an account has one row and it is there already, it stays.
    """
    made: dict[str, dict[str, Any]] = {"jobs": {"id": new_id()}}
    for table in account_tables():
        if table.name == "accounts" and connection.execute(select(table).where(table.c.id == account)).first():
            continue
        row = {column.name: _value(column, account, made) for column in table.columns if not _numbered(column)}
        if table.name == "accounts":
            row["status"] = "active"
        if table.name == "erasures":
            row.update(finished_at=datetime.now(UTC), removed={})  # an earlier one
        if "job_id" in table.c:
            row["job_id"] = made["jobs"]["id"]
        if table.name == "jobs":
            row["id"] = made["jobs"]["id"]
        if table.name == "artifacts":
            row["path"] = f"artifacts/{new_id()}"
            file = folder / row["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"evidence")
        connection.execute(upsert(connection, table).values(**row).on_conflict_do_nothing())
        made[table.name] = row


def _numbered(column: Column[Any]) -> bool:
    return bool(column.primary_key) and isinstance(column.type, Integer) and column.autoincrement is True


def _value(column: Column[Any], account: str, made: dict[str, dict[str, Any]]) -> Any:
    for key in column.foreign_keys:
        return made[key.column.table.name][key.column.name]
    if column.name == "account" or (column.table.name == "accounts" and column.name == "id"):
        return account
    kind = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    if column.nullable and isinstance(kind, DateTime):
        return None  # nothing is due, so no loop takes it for work
    values: list[tuple[Any, Any]] = [
        (Boolean, False),
        (DateTime, datetime.now(UTC)),
        (Integer, 1),
        (Float, 1.5),
        (LargeBinary, b"sealed"),
        (JSON, {"of": account}),
    ]
    for known, value in values:
        if isinstance(kind, known):
            return value
    return "2026-01-01" if column.name == "day" else new_id()


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""

    def read(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in Model.metadata.sorted_tables
        }

    return database.read(read)


def naming(database: Database, account: str) -> dict[str, int]:
    """How many rows of each table have the account's name in any column, in any form."""
    forms = {account, repr(account)[1:-1], account.encode("unicode_escape").decode()}
    counts = {
        name: sum(any(form in repr(row) for form in forms) for row in found) for name, found in rows(database).items()
    }
    return {name: number for name, number in counts.items() if number}


def in_redis(runtime: Runtime) -> list[bytes]:
    """Every key, and every member, field and value of every key."""
    client: Any = redis.Redis.from_url(str(runtime.settings.redis_url))
    readers: dict[bytes, Callable[[bytes], list[bytes]]] = {
        b"string": lambda key: [client.get(key)],
        b"zset": lambda key: [b"%s=%r" % pair for pair in client.zrange(key, 0, -1, withscores=True)],
        b"hash": lambda key: [b"%s=%s" % pair for pair in client.hgetall(key).items()],
        b"set": lambda key: list(client.smembers(key)),
        b"list": lambda key: client.lrange(key, 0, -1),
    }
    found = []
    for key in client.scan_iter(count=1000):
        content = readers[client.type(key)](key)
        found += [key, *(b"%s: %s" % (key, each) for each in content)]
    client.close()
    return sorted(found)
