"""Prepared statements on PostgreSQL, straight by libpq: texts in, one JSON document out.

The driver's cursor took five times as long for such a statement as libpq's own call, most of it with the interpreter's
lock held while other threads waited: for a worker's short steps that was a quarter of its time.

Invariants: a name means the same statement for as long as its connection lives, because it is kept with that; the call
lets go of the interpreter's lock, and nothing but the server's answer, its time-outs and the connection's own end it.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    _names: dict[str, bytes] = field(default_factory=dict)
    #: A name is not given twice: what was forgotten here may still be known to the server.
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @staticmethod
    def on(connection: psycopg.Connection[Any]) -> Prepared:
        return Prepared(connection, connection.info.encoding)

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
        name = self._names.get(statement)
        if name is None:
            name = b"onelane_%d" % next(self._numbers)
            before()
            prepared = server.prepare(name, text.encode(self.encoding))
            if prepared.status != ExecStatus.COMMAND_OK:
                raise error_from_result(prepared, self.encoding)
            self._names[statement] = name
        before()
        answer = server.exec_prepared(name, values)
        if answer.status != ExecStatus.TUPLES_OK:
            raise error_from_result(answer, self.encoding)
        return answer


@functools.cache
def _numbered(statement: str) -> tuple[str, list[str]]:
    """The statement with its parameters as `$1`, and their names in that order."""
    names = list(dict.fromkeys(_PARAMETER.findall(statement)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", statement), names
