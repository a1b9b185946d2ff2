"""Prepared statements on PostgreSQL, straight by libpq: texts in, one JSON document out.

The driver's cursor took five times as long for such a statement as libpq's own call, most of it with the interpreter's
lock held while other threads waited: for a worker's short steps that was a quarter of its time.

Invariants
- A name is made of the statement's text, so no session can know it for another one; it is used only where the session
  is the connection's own (`postgres_sessions`). Elsewhere a statement has no name, and is sent with its parameters.
- The call releases the GIL, and only the server's answer, its time-outs and the connection's own end it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

_PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(slots=True)
class Prepared:
    """What one connection has prepared."""

    connection: psycopg.Connection[Any]
    encoding: str
    #: The session is the connection's own, so statements may have names.
    named: bool
    _names: dict[str, bytes] = field(default_factory=dict)

    @staticmethod
    def on(connection: psycopg.Connection[Any], *, named: bool) -> Prepared:
        return Prepared(connection, connection.info.encoding, named)

    def run(self, statement: str, parameters: Mapping[str, str], *, before: Callable[[], None]) -> Any:
        """Run a statement that commits itself, and give back its only value, which is a JSON document or null.

        Args:
            statement: in which `%(name)s` marks a parameter.
            parameters: by name, as PostgreSQL reads them in text.
            before: called when nothing is left to do but to wait for the server; twice if that must prepare it.

        Raises:
            psycopg.Error: as the driver would; the connection is closed if it was lost.
        """
        text, names = _numbered(statement)
        given = [parameters[name] for name in names]
        if any("\0" in value for value in given):
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL bytes")
        encoded = [value.encode(self.encoding) for value in given]
        try:
            answer = self._execute(statement, text, encoded, before)
        except psycopg.errors.InvalidSqlStatementName:
            # The driver has let go of all that was prepared, which it does after a rollback. Nothing was run.
            del self._names[statement]
            answer = self._execute(statement, text, encoded, before)
        document = answer.get_value(0, 0)
        return None if document is None else json.loads(document.decode(self.encoding))

    def _execute(self, statement: str, text: str, values: Sequence[bytes], before: Callable[[], None]) -> PGresult:
        server = self.connection.pgconn
        if not self.named:
            before()
            answer = server.exec_params(text.encode(self.encoding), values)
        else:
            name = self._names.get(statement) or self._prepare(statement, text, before)
            before()
            answer = server.exec_prepared(name, values)
        if answer.status != ExecStatus.TUPLES_OK:
            raise error_from_result(answer, self.encoding)
        return answer

    def _prepare(self, statement: str, text: str, before: Callable[[], None]) -> bytes:
        encoded = text.encode(self.encoding)
        name = b"onelane_" + hashlib.sha256(encoded).hexdigest()[:48].encode()  # PostgreSQL takes 63 bytes
        before()
        prepared = self.connection.pgconn.prepare(name, encoded)
        if prepared.status != ExecStatus.COMMAND_OK:
            raise error_from_result(prepared, self.encoding)
        self._names[statement] = name
        return name


@functools.cache
def _numbered(statement: str) -> tuple[str, list[str]]:
    """The statement with its parameters as `$1`, and their names in that order."""
    names = list(dict.fromkeys(_PARAMETER.findall(statement)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", statement), names
