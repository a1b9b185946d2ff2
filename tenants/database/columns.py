"""Column types and SQL functions that mean the same on SQLite and PostgreSQL.

All times in the store are the database's: the server evaluates `db_now` (on SQLite, this host is the server), so no
worker's clock decides about ownership.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, DateTime, Integer, String, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

#: SQLAlchemy keeps times on SQLite as text of this form; text in it sorts like the times.
SQLITE_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, whole microseconds: ``timestamptz`` on PostgreSQL, sortable text on SQLite."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=dialect.name != "sqlite"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; the store takes aware times only")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):
    """The database's time now, plus a number of seconds (a number or a numeric SQL expression)."""

    type = UtcTime()
    name = "db_now"
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_on_postgresql(element: db_now, compiler: Any, **kw: Any) -> str:
    if not len(element.clauses):
        return "clock_timestamp()"
    seconds = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"


@compiles(db_now, "sqlite")
def _now_on_sqlite(element: db_now, compiler: Any, **kw: Any) -> str:
    # As a subquery, which runs once in a statement unless it names a column. The bare call would run for each row, and
    # wait for the GIL each time while it holds the writer lock.
    seconds = compiler.process(element.clauses, **kw) if len(element.clauses) else "0"
    return f"(SELECT onelane_now({seconds}))"


def sqlite_now(seconds: float | None) -> str | None:
    """`db_now` on SQLite, registered on each connection as ``onelane_now``."""
    if seconds is None:
        return None
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime(SQLITE_TIME_FORMAT)


class seconds_since(FunctionElement[float]):
    """Seconds from a time column until now, by the database's clock."""

    from sqlalchemy import Float as _Float

    type = _Float()
    name = "seconds_since"
    inherit_cache = True


@compiles(seconds_since, "postgresql")
def _since_on_postgresql(element: seconds_since, compiler: Any, **kw: Any) -> str:
    return f"EXTRACT(EPOCH FROM (clock_timestamp() - {compiler.process(element.clauses, **kw)}))::double precision"


@compiles(seconds_since, "sqlite")
def _since_on_sqlite(element: seconds_since, compiler: Any, **kw: Any) -> str:
    return f"onelane_seconds_since({compiler.process(element.clauses, **kw)})"


def sqlite_seconds_since(text: str | None) -> float | None:
    """`seconds_since` on SQLite, registered on each connection as ``onelane_seconds_since``."""
    if text is None:
        return None
    then = datetime.strptime(text, SQLITE_TIME_FORMAT).replace(tzinfo=UTC)
    return (datetime.now(UTC) - then).total_seconds()


class seconds_between(FunctionElement[float]):
    """Seconds from one time column to a later one, to the microsecond."""

    from sqlalchemy import Float as _Float

    type = _Float()
    name = "seconds_between"
    inherit_cache = True


@compiles(seconds_between, "postgresql")
def _between_on_postgresql(element: seconds_between, compiler: Any, **kw: Any) -> str:
    start, end = (compiler.process(each, **kw) for each in element.clauses)
    return f"EXTRACT(EPOCH FROM ({end} - {start}))::double precision"


@compiles(seconds_between, "sqlite")
def _between_on_sqlite(element: seconds_between, compiler: Any, **kw: Any) -> str:
    # SQLite's own functions have milliseconds; the microseconds are the last six characters of the text.
    start, end = (compiler.process(each, **kw) for each in element.clauses)
    whole = f"strftime('%s', {end}) - strftime('%s', {start})"
    return f"({whole} + (substr({end}, 21) - substr({start}, 21)) / 1000000.0)"


class utc_day(FunctionElement[str]):
    """The UTC day of a time column, such as ``2026-11-21``."""

    type = String()
    name = "utc_day"
    inherit_cache = True


@compiles(utc_day, "postgresql")
def _day_on_postgresql(element: utc_day, compiler: Any, **kw: Any) -> str:
    return f"to_char({compiler.process(element.clauses, **kw)} AT TIME ZONE 'UTC', 'YYYY-MM-DD')"


@compiles(utc_day, "sqlite")
def _day_on_sqlite(element: utc_day, compiler: Any, **kw: Any) -> str:
    return f"substr({compiler.process(element.clauses, **kw)}, 1, 10)"


def big_serial() -> TypeEngine[Any]:
    """An autoincremented 64-bit key. On SQLite only a column of exactly type INTEGER is one."""
    return BigInteger().with_variant(Integer, "sqlite")


def json_document() -> TypeEngine[Any]:
    """JSON that keeps its text (PostgreSQL's ``json``; ``jsonb`` reorders keys)."""
    return JSON(none_as_null=True)


def json_index() -> TypeEngine[Any]:
    """JSON that queries search in."""
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def exact_text(length: int | None = None) -> TypeEngine[Any]:
    """Text that is compared byte by byte, whatever the database's locale, so that prefixes can use an index."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def upsert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT with the conflict clauses that both databases have."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
