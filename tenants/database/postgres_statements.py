"""Prepared statements on PostgreSQL, run through libpq itself: texts in, one JSON document out.

The driver's cursor takes five times as long for such a statement, most of it while it holds the GIL; for a worker's
short steps that was a quarter of its time.

Invariants
- A name is made of the statement's text, so no session can know it for another statement. It is used only where the
  session belongs to the connection (`postgres_sessions`); elsewhere a statement has no name and is sent as a whole.
- The call releases the GIL, and ends with the server's answer, its time-outs or the connection's.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy.pool import PoolProxiedConnection

from .postgres_sessions import is_shared

Value = str | int | float | bool | None

_PARAMETER = re.compile(r"%\((\w+)\)s")
#: Where a pooled connection's `info` keeps its statements.
_STATEMENTS = "onelane_statements"


class PreparedStatements:
    """The statements of one connection. Each run is a transaction of its own, committed by the statement's end."""

    def __init__(self, connection: psycopg.Connection[Any], *, named: bool) -> None:
        """`named`: the session belongs to the connection, so statements may have names."""
        self._connection = connection
        self._encoding = connection.info.encoding
        self._named = named
        self._names: dict[str, bytes] = {}

    @staticmethod
    def of(pooled: PoolProxiedConnection) -> PreparedStatements:
        found: PreparedStatements | None = pooled.info.get(_STATEMENTS)
        if found is None:
            driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
            found = pooled.info[_STATEMENTS] = PreparedStatements(driver, named=not is_shared(pooled))
        return found

    def run_over(self, statement: str, items: Sequence[Mapping[str, Value]]) -> list[dict[str, Any] | None]:
        """Run a statement over arrays, and return its row for each item, or None where it gives none.

        Args:
            statement: in which `%(name)s` marks the array of the items' values of that name, without a type. It gives
                one JSON list of objects, or null; the `place` of each object is its item's number, counted from 1.
            items: with the same names each.

        Raises:
            psycopg.Error: as `run`.
        """
        arrays = {name: _array([item[name] for item in items]) for name in items[0]}
        rows = {row["place"]: row for row in self.run(statement, arrays) or ()}
        return [rows.get(place) for place in range(1, len(items) + 1)]

    def run(self, statement: str, parameters: Mapping[str, str]) -> Any:
        """Run a statement, and return its only value, which is a JSON document or null.

        Args:
            statement: in which `%(name)s` marks a parameter.
            parameters: by name, in PostgreSQL's text format.

        Raises:
            psycopg.Error: as the driver would; the connection is closed if it was lost.
        """
        text, names = _numbered(statement)
        given = [parameters[name] for name in names]
        if any("\0" in value for value in given):
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL bytes")
        encoded = [value.encode(self._encoding) for value in given]
        try:
            answer = self._execute(statement, text, encoded)
        except psycopg.errors.InvalidSqlStatementName:
            # The driver has deallocated all prepared statements, as it does after a rollback. Nothing was run.
            del self._names[statement]
            answer = self._execute(statement, text, encoded)
        document = answer.get_value(0, 0)
        return None if document is None else json.loads(document.decode(self._encoding))

    def _execute(self, statement: str, text: str, values: Sequence[bytes]) -> PGresult:
        server = self._connection.pgconn
        if self._named:
            name = self._names.get(statement) or self._prepare(statement, text)
            answer = server.exec_prepared(name, values)
        else:
            answer = server.exec_params(text.encode(self._encoding), values)
        if answer.status != ExecStatus.TUPLES_OK:
            raise error_from_result(answer, self._encoding)
        return answer

    def _prepare(self, statement: str, text: str) -> bytes:
        encoded = text.encode(self._encoding)
        name = b"onelane_" + hashlib.sha256(encoded).hexdigest()[:48].encode()  # PostgreSQL takes 63 bytes
        prepared = self._connection.pgconn.prepare(name, encoded)
        if prepared.status != ExecStatus.COMMAND_OK:
            raise error_from_result(prepared, self._encoding)
        self._names[statement] = name
        return name


@functools.cache
def _numbered(statement: str) -> tuple[str, list[str]]:
    """The statement with its parameters as `$1`, and their names in that order."""
    names = list(dict.fromkeys(_PARAMETER.findall(statement)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", statement), names


def _array(values: Sequence[Value]) -> str:
    """PostgreSQL's text of an array. The driver's own takes ten times as long: a tenth of a worker's time."""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Value) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "NULL" if value is None else str(value)
