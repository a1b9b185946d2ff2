"""The audit is append-only, whoever speaks to the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tenants.database.transactions import Database
from tenants.store import audit


def rows(database: Database) -> Sequence[Any]:
    return database.read(lambda c: audit.page(c, actor=None, action=None, target=None, limit=9, cursor=None)).rows


def record(database: Database, target: str) -> None:
    database.write(
        lambda c: audit.record(
            c, actor="admin", address="127.0.0.1", action="put_limits", target=target, details={"before": None}
        )
    )


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit", "TRUNCATE audit"])
def test_no_row_of_the_audit_is_changed_or_removed(database: Database, statement: str) -> None:
    if statement.startswith("TRUNCATE") and database.engine.dialect.name == "sqlite":
        statement = "DELETE FROM audit WHERE target = 'first'"
    record(database, "first")
    before = rows(database)
    with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
        connection.execute(text(statement))
    record(database, "second")
    assert [row["target"] for row in rows(database)] == ["second", "first"]
    assert rows(database)[1:] == before
