"""Many rows in one statement whose text does not grow with them.

With a parameter for each value, psycopg goes through a text of 14,000 placeholders for a thousand jobs: that was half
of the time that such a batch took. Here the rows travel as one JSON parameter, of which PostgreSQL makes rows of the
table. SQLite takes many rows at once as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Insert,
    String,
    Table,
    any_,
    bindparam,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ..columns import db_now

#: Below this the ordinary way is as quick.
MANY = 8


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: tuple[str, ...] = ()
) -> CursorResult[Any]:
    """Insert rows that all name the same columns; with `created_at` unnamed it is the database's time, where it exists.

    Gives back the columns of `returning`, in any order of rows.
    """
    names = tuple(rows[0])
    if connection.dialect.name == "postgresql" and len(rows) >= MANY:
        document = json.dumps([dict(row) for row in rows], default=_as_text)
        return connection.execute(_from_document(table, names, returning), {"its_rows": document})
    return connection.execute(_one_by_one(table, names, returning), [dict(row) for row in rows])


def among(connection: Connection, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    """Whether a text column has one of these values; as `column.in_`, with one parameter for all of them."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), ARRAY(String)))
    return column.in_(values)


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


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in a row")
