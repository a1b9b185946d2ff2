"""Inserts of many rows by one statement of constant size: the rows are one JSON parameter.

With a parameter for each value, psycopg parses 14,000 placeholders for a thousand jobs, which was half of the time of
such a batch. On SQLite, executing row by row releases the GIL and waits for it again at each row, while the only write
lock is held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Insert,
    String,
    Table,
    any_,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ..database.columns import SQLITE_TIME_FORMAT, UtcTime, db_now, sqlite_now

#: Below this one statement a row is as fast.
MANY = 8


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: tuple[str, ...] = ()
) -> Sequence[Sequence[Any]]:
    """Insert rows that all name the same columns; a `created_at` that they do not name is the database's time.

    Returns the columns of `returning`, in any order of rows.
    """
    names = tuple(rows[0])
    if connection.dialect.name == "sqlite" and len(rows) >= MANY:
        return _insert_on_sqlite(connection, table, names, rows, returning)
    if connection.dialect.name == "postgresql" and len(rows) >= MANY:
        document = to_json(rows, inf_nan_mode="constants").decode()  # five times as fast as the standard library
        inserted = connection.execute(_from_document(table, names, returning), {"its_rows": document})
    else:
        inserted = connection.execute(_one_by_one(table, names, returning), [dict(row) for row in rows])
    return inserted.all() if returning else ()


def _insert_on_sqlite(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
    returning: tuple[str, ...],
) -> Sequence[Sequence[Any]]:
    forms = [_FORMS.get(type(table.c[name].type)) for name in names]
    columns = [
        [form(row[name]) for row in rows] if form else [row[name] for row in rows]
        for name, form in zip(names, forms, strict=True)
    ]
    document = to_json(list(zip(*columns, strict=True)), inf_nan_mode="constants").decode()
    now = (sqlite_now(0),) if _dated_here(table, names) else ()
    insertion, highest, look = _statements_of_sqlite(table, names, returning)
    # SQLite has one writer, so every row with a higher key was inserted here.
    before = connection.exec_driver_sql(highest).scalar() if returning else None
    connection.exec_driver_sql(insertion, (*now, document))
    if not returning:
        return ()
    found: list[list[Any]] = from_json(connection.exec_driver_sql(look, (before or 0,)).scalar_one())
    return found


@cache
def _statements_of_sqlite(table: Table, names: tuple[str, ...], returning: tuple[str, ...]) -> tuple[str, str, str]:
    """Statements that insert the rows of a document, find the highest key, and read the rows with a higher key."""
    its, key = table.name, table.primary_key.columns[0].name  # all names here are of our own schema
    values = [f"json_extract(value, '$[{at}]')" for at in range(len(names))]
    if _dated_here(table, names):
        names, values = (*names, "created_at"), [*values, "?"]
    return (
        f"INSERT INTO {its} ({', '.join(names)}) SELECT {', '.join(values)} FROM json_each(?) ORDER BY key",  # noqa: S608
        f"SELECT max({key}) FROM {its}",  # noqa: S608
        f"SELECT json_group_array(json_array({', '.join(returning)})) FROM {its} WHERE {key} > ?",  # noqa: S608
    )


@lru_cache(maxsize=1024)  # most of the times in a batch are the same one
def _time_form(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).strftime(SQLITE_TIME_FORMAT)


def _json_form(value: Any) -> str | None:
    return None if value is None else to_json(value, inf_nan_mode="constants").decode()


#: How SQLAlchemy stores values on SQLite, by the column's type; values of other types are stored unchanged.
_FORMS: dict[type, Callable[[Any], Any]] = {UtcTime: _time_form, JSON: _json_form}


def among(connection: Connection, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    """`column.in_(values)` for a text column, with one parameter for all values."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), ARRAY(String)))
    given = func.json_each(json.dumps(list(values)), type_=String).table_valued("value")
    return column.in_(select(given.c.value))


@cache
def _one_by_one(table: Table, names: tuple[str, ...], returning: tuple[str, ...]) -> Insert:
    statement = insert(table)
    if _dated_here(table, names):
        statement = statement.values(created_at=db_now())
    return statement.returning(*(table.c[name] for name in returning)) if returning else statement


@cache
def _from_document(table: Table, names: tuple[str, ...], returning: tuple[str, ...]) -> Insert:
    document = text(f"json_populate_recordset(NULL::{table.name}, CAST(:its_rows AS json)) AS given")
    values: list[ColumnElement[Any]] = [literal_column(f'given."{name}"') for name in names]
    if _dated_here(table, names):
        names, values = (*names, "created_at"), [*values, db_now()]
    statement = insert(table).from_select(list(names), select(*values).select_from(document), include_defaults=False)
    return statement.returning(*(table.c[name] for name in returning)) if returning else statement


def _dated_here(table: Table, names: tuple[str, ...]) -> bool:
    return "created_at" in table.c and "created_at" not in names
