"""The database: one engine, and transactions that are retried when the database asks for it.

Invariants
- `write` runs one transaction from begin to commit. On SQLite it begins immediate, and writers come in order
  (`sqlite_turns`).
- `work` may run more than once (deadlock, serialization failure, a connection that broke before the commit), so it
  must not have effects outside its transaction.
- A connection lost in the middle of a commit leaves the outcome open. It is never repeated here: `CommitUnknown` says
  so.
"""

from __future__ import annotations

import functools
import operator
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from . import shared_commits, sqlite_turns
from .columns import sqlite_now, sqlite_seconds_since
from .combining import Combined, Interrupted
from .database_trouble import unavailable
from .database_url import parse
from .errors import NotWritable, Unavailable
from .postgres_sessions import PostgresSessions, is_shared
from .prepared import Prepared
from .shared_commits import RunAll, alone
from .sqlite_turns import WritersTurn, is_busy

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
_Item = Mapping[str, Any]
_StatementFor = Callable[[Sequence[_Item]], str]

#: Noted in a connection's `info` by the transaction that recorded events.
EVENTS_RECORDED = "onelane_events_recorded"

#: Says of a connection to SQLite that its transaction only reads.
_READS = "onelane_reads"
#: Where a connection's `info` keeps what it has prepared.
_PREPARED = "onelane_prepared"

#: How often a transaction that the database refused is tried in all.
MAX_TRIES = 6
#: Seconds after which a connection is given up whose other end acknowledges nothing.
TCP_SECONDS = 20

#: For libpq, where the URL does not say otherwise.
_CONNECT_DEFAULTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Keepalives are silent while something that was sent waits for its acknowledgement. Without this a host that
    # vanished in the middle of a statement is waited for until the kernel gives up, a quarter of an hour.
    "tcp_user_timeout": TCP_SECONDS * 1000,
}

#: PostgreSQL: read_only_sql_transaction, from a server that was the primary until a failover and kept its connections.
_READ_ONLY = "25006"
#: PostgreSQL: serialization_failure, deadlock_detected, lock_not_available; and the above, on other connections.
_RETRY_STATES = frozenset({"40001", "40P01", "55P03", _READ_ONLY})
#: SQLite: a snapshot that became too old to write on, a WAL that another process recovers, a shared cache's lock.
_RETRY_CODES = frozenset({sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_LOCKED})


class CommitUnknown(Unavailable):
    """The connection was lost while committing: the transaction may or may not have taken effect."""


class Database:
    """One database by URL, e.g. ``sqlite:////var/lib/onelane/onelane.db`` or ``postgresql://user@host/name``."""

    def __init__(self, url: str, *, pool_size: int = 16) -> None:
        """Make the engine; nothing is connected yet.

        Args:
            url: as the class says; any driver in it is replaced by ours.
            pool_size: most connections of this process; a caller waits up to ten seconds for one.

        Raises:
            InvalidDatabaseUrl: it is no such URL; the message quotes nothing of it.
        """
        self.url = parse(url)
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if _is_sqlite(self.url) else "postgresql"
        #: On SQLite, which has one writer at a time.
        self._turn = WritersTurn(self.url.database or "")
        #: What holds on each connection to PostgreSQL.
        self._sessions = PostgresSessions(self.url) if self.dialect == "postgresql" else None
        self.engine = _make_engine(self.url, pool_size, self._turn.begin)
        if self._sessions is not None:
            self._sessions.serve(self.engine)
        #: Why the last write that failed so was not possible (`NotWritable`); `store.writability` sets it back.
        self.not_writable: str | None = None
        #: Called after a commit that recorded events, so that whoever waits for them is told. It must not block.
        self.on_events: Callable[[], None] | None = None
        #: What several threads bring at one moment: on SQLite transactions that share a commit, on PostgreSQL items
        #: that share a statement, each with what makes it. On PostgreSQL too one is on the way at a time: two beside
        #: each other would each have half as many items, and be in each other's way.
        self._together: Combined[tuple[Any, Any], Any] = (
            Combined(self._run_all_on_sqlite, turn=self._turn)
            if self.dialect == "sqlite"
            else Combined(self._run_for_all, kind_of=operator.itemgetter(0))
        )
        #: Entered by whoever writes.
        self._writing: AbstractContextManager[Any] = self._turn if self.dialect == "sqlite" else nullcontext()
        self._reader = (
            self.engine.execution_options(isolation_level="AUTOCOMMIT")
            if self.dialect == "postgresql"
            else self.engine.execution_options(**{_READS: True})
        )

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and commit it.

        Raises:
            Unavailable: the database cannot be reached, or refused the transaction too often.
            CommitUnknown: the connection was lost in the middle of the commit.
        """
        for tries in range(1, MAX_TRIES + 1):
            try:
                return self._write_once(work)
            except DBAPIError as error:
                if not _worth_a_retry(error) or tries == MAX_TRIES:
                    raise self._noted(_translated(error)) from error
                self._leave_former_primary(error.orig)
            except PoolTimeout as error:
                raise Unavailable(f"no database connection became free: {error}") from error
            time.sleep(random.uniform(0, 0.01 * 2**tries))
        raise AssertionError("unreachable: the last try returns or raises")

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which only reads. On SQLite it sees one snapshot.

        Raises:
            Unavailable: the database cannot be reached.
        """
        patience = time.monotonic() + sqlite_turns.BUSY_SECONDS
        tries = 0
        while True:
            try:
                with self._reader.connect() as connection:
                    if is_shared(connection.connection):
                        # What sets our time-outs must share a transaction with what they are for.
                        connection.execution_options(isolation_level="READ COMMITTED")
                    return work(connection)
            except DBAPIError as error:
                if isinstance(error.orig, sqlite3.Error) and is_busy(error.orig) and time.monotonic() < patience:
                    time.sleep(random.uniform(0.001, 0.01))  # another process opens it after a crash, or leaves it
                    continue
                tries += 1
                if not _worth_a_retry(error) or tries == MAX_TRIES:
                    raise _translated(error) from error
            except PoolTimeout as error:
                raise Unavailable(f"no database connection became free: {error}") from error

    def run_one(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        """Run one statement that commits itself, on PostgreSQL, and give back its rows, with columns as attributes.

        `%(name)s` marks a parameter. The statement may record events.

        Raises:
            IntegrityError: a constraint refused it.
            Unavailable: the database cannot be reached, or refused it too often.
            CommitUnknown: the connection was lost before the answer came.
        """
        return self._retried(statement, functools.partial(self._run_once, statement, parameters))

    def run_together(self, statement_for: _StatementFor, item: _Item) -> dict[str, Any] | None:
        """Run one statement that commits itself, on PostgreSQL, for this item and those that other threads bring.

        Whoever finds nobody on the way goes at once, alone; what others bring meanwhile goes together.

        Args:
            statement_for: gives the statement for some items. In it `%(name)s` marks an array, of each item's value of
                that name (to be cast: its type is not told). It gives one JSON list of objects, or null; the `place` of
                each says which item it is of, counted from 1. The same function for all items that may go together.
            item: its values by name: texts, whole numbers and truth values.

        Returns:
            The item's object, or None if the statement gave none for it.

        Raises:
            IntegrityError, Unavailable, CommitUnknown: as `run_one`, for this item.
        """
        try:
            row: dict[str, Any] | None = self._together.run((statement_for, item))
        except Interrupted as error:
            raise CommitUnknown(str(error)) from error
        return row

    def _run_for_all(self, calls: Sequence[tuple[_StatementFor, _Item]], let_go: Callable[[], None]) -> list[Any]:
        """The object of each item, None, or its error; the statement is made by the same function for all."""
        statement_for, items = calls[0][0], [item for _, item in calls]
        arrays = {name: _array_literal([item[name] for item in items]) for name in items[0]}
        try:
            rows = {row["place"]: row for row in self._run_for_rows(statement_for(items), arrays, let_go)}
        except (IntegrityError, DataError) as error:
            # One of them is to blame, and nothing was written: each is told by itself.
            if len(calls) == 1:
                return [error]
            return [self._run_for_all([call], let_go)[0] for call in calls]
        except Unavailable as error:
            # Each thread raises an error of its own: one that several raise would mix their tracebacks.
            return [type(error)(*error.args) for _ in calls]
        return [rows.get(place) for place in range(1, len(calls) + 1)]

    def _retried(self, statement: str, run_once: Callable[[], T]) -> T:
        """Run a statement that commits itself, again where the server asks for that; errors as `run_one` has them."""
        for tries in range(1, MAX_TRIES + 1):
            try:
                return run_once()
            except psycopg.IntegrityError as error:
                raise IntegrityError(statement, None, error) from error
            except psycopg.DataError as error:
                raise DataError(statement, None, error) from error
            except psycopg.Error as error:
                if error.sqlstate not in _RETRY_STATES or tries == MAX_TRIES:
                    raise self._noted(unavailable(error)) from error
                self._leave_former_primary(error)
            except DBAPIError as error:
                raise _translated(error) from error  # it could not be connected to
            except PoolTimeout as error:
                raise Unavailable(f"no database connection became free: {error}") from error
            time.sleep(random.uniform(0, 0.01 * 2**tries))
        raise AssertionError("unreachable: the last try returns or raises")

    def _leave_former_primary(self, error: BaseException | None) -> None:
        """Close what is pooled, so that the next try asks anew for the server that takes writes."""
        if isinstance(error, psycopg.Error) and error.sqlstate == _READ_ONLY:
            self.engine.dispose()

    def _run_once(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        with self._committing_itself() as pooled:
            driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
            with driver.cursor(row_factory=namedtuple_row) as cursor:
                rows = cursor.execute(statement, parameters).fetchall()
        self._tell()
        return rows

    def _run_for_rows(
        self, statement: str, arrays: Mapping[str, str], let_go: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Run a statement that gives its rows as one JSON list."""

        def run() -> list[dict[str, Any]]:
            if not cast("QueuePool", self.engine.pool).checkedin():
                let_go()  # a connection must be made or waited for
            with self._committing_itself() as pooled:
                prepared = pooled.info.get(_PREPARED)
                if prepared is None:
                    driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
                    prepared = pooled.info[_PREPARED] = Prepared.on(driver, named=not is_shared(pooled))
                rows: list[dict[str, Any]] | None = prepared.run(statement, arrays, before=let_go)
            self._tell()
            return rows or []

        return self._retried(statement, run)

    @contextmanager
    def _committing_itself(self) -> Iterator[PoolProxiedConnection]:
        """A connection of the pool for one statement that is committed at the end.

        Raises:
            CommitUnknown: the connection was lost meanwhile.
        """
        # Below SQLAlchemy's own connection, whose bookkeeping costs more than such a statement takes to run.
        pooled = self.engine.raw_connection()
        try:
            driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
            try:
                if is_shared(pooled):
                    yield from self._in_a_transaction(pooled, driver)
                else:
                    driver.autocommit = True
                    yield pooled
            except psycopg.Error as error:
                if not driver.closed:
                    raise
                pooled.invalidate(error)
                raise CommitUnknown(
                    "the database connection was lost in the middle of a statement; its outcome is unknown"
                ) from error
            finally:
                if not driver.closed and driver.autocommit:
                    driver.autocommit = False
        finally:
            pooled.close()

    def _in_a_transaction(
        self, pooled: PoolProxiedConnection, driver: psycopg.Connection[Any]
    ) -> Iterator[PoolProxiedConnection]:
        """On a shared connection: our settings, the statement and its commit, in one transaction."""
        assert self._sessions is not None
        with driver.transaction():
            self._sessions.begin(pooled)
            yield pooled

    def run_on_sqlite(self, work: Callable[[sqlite3.Connection], T | None]) -> T | None:
        """Run one transaction on SQLite's own connection, below SQLAlchemy; None from `work` rolls it back.

        Those of several threads share a commit, because the flush to disk takes longer than all that they write.

        Raises:
            IntegrityError: a constraint refused it.
            Unavailable: the database is locked for too long, cannot be opened, or its disk is full.
            CommitUnknown: the thread that ran it together with its own was interrupted.
        """
        return cast("T | None", self._share_commit(alone, work))

    def run_together_on_sqlite(self, run_all: RunAll, item: Any) -> Any | None:
        """Run one transaction on SQLite for this item and those that other threads bring with the same function.

        Args:
            run_all: gives an answer for each item, in their order; None for one for which it has written nothing. It
                is called again for each item by itself where it raises an error for several.
            item: what it shall do.

        Raises: as `run_on_sqlite`, for this item.
        """
        return self._share_commit(run_all, item)

    def _share_commit(self, run_all: RunAll, item: Any) -> Any:
        try:
            return self._together.run((run_all, item))
        except Interrupted as error:
            raise CommitUnknown(str(error)) from error
        except NotWritable as error:
            self._noted(error)
            raise

    def _run_all_on_sqlite(self, calls: Sequence[tuple[RunAll, Any]], let_go: Callable[[], None]) -> list[Any]:
        return shared_commits.run_all(self.engine, self._turn.begin, calls, let_go=let_go, committed=self._tell)

    def _tell(self) -> None:
        if self.on_events is not None:
            self.on_events()

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        with self._writing, self.engine.connect() as connection:
            connection.info.pop(EVENTS_RECORDED, None)  # left behind by a transaction that was rolled back
            result = work(connection)
            happened = connection.info.pop(EVENTS_RECORDED, False)
            try:
                connection.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise CommitUnknown(
                        "the database connection was lost in the middle of a commit; its outcome is unknown"
                    ) from error
                raise
        if happened:
            self._tell()
        return result

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler such as pgbouncer stands before the server; known after the first call that reached it."""
        return bool(self._sessions and self._sessions.shared)

    def _noted(self, error: E) -> E:
        if isinstance(error, NotWritable):
            self.not_writable = error.reason
        return error

    def ping(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        self.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    def migrate(self) -> None:
        """Bring the schema up to date. Safe to call from several processes at once."""
        from .migrations import upgrade

        if self.dialect == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._writing:
                upgrade(self.engine)
        except DBAPIError as error:
            raise _translated(error) from error

    def pending_migrations(self) -> list[str]:
        """Revisions that the schema lacks, oldest first; empty when it is up to date."""
        from .migrations import pending

        with self._writing:
            return pending(self.engine)

    def close(self) -> None:
        self.engine.dispose()
        self._turn.close()


def _array_literal(values: Sequence[str | int | bool]) -> str:
    """PostgreSQL's text of an array. The driver's own takes ten times as long, which was a tenth of a worker's time."""
    return "{" + ",".join([_element(value) if isinstance(value, str) else str(value) for value in values]) + "}"


def _element(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_sqlite(url: URL) -> bool:
    return url.drivername.split("+")[0] == "sqlite"


def _make_engine(url: URL, pool_size: int, begin_to_write: Callable[[sqlite3.Connection], None]) -> Engine:
    # The connection that was used last is used next: its statements are prepared, and its server's caches are warm.
    options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 10, "pool_use_lifo": True}
    if _is_sqlite(url):
        # SQLite's own waiting asks with pauses of up to 100 ms: `begin_to_write` and `Database.read` wait.
        engine = create_engine(url, connect_args={"timeout": 0}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", functools.partial(_begin_sqlite, begin_to_write))
        return engine
    # What the URL says itself about these is kept.
    defaults = {name: value for name, value in _CONNECT_DEFAULTS.items() if name not in url.query}
    return create_engine(url, connect_args=defaults, **options)


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # The driver must not begin by itself: `_begin_sqlite` chooses how.
    connection.isolation_level = None
    _write_ahead(connection)
    # FULL: a commit that was answered 202 survives the loss of power too.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA cache_size=-65536")
    # What a savepoint or a statement may have to take back went to a file for each commit of several steps. What is
    # sorted stays in memory too; that is little but for a migration's indexes.
    connection.execute("PRAGMA temp_store=MEMORY")
    # In pages: 16 MB. Each step writes the same pages again, which are copied into the database once for all of it.
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    connection.create_function("onelane_now", 1, sqlite_now)
    connection.create_function("onelane_seconds_since", 1, sqlite_seconds_since)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, which changes a new database for good and the others not.

    SQLite does not wait for the lock that it needs while others read, or switch as well; and of the processes that a
    host starts together, several may open the new database at once.
    """
    end = time.monotonic() + sqlite_turns.BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def _begin_sqlite(begin_to_write: Callable[[sqlite3.Connection], None], connection: Connection) -> None:
    if connection.get_execution_options().get(_READS):
        connection.exec_driver_sql("BEGIN")
        return
    try:
        begin_to_write(cast("sqlite3.Connection", connection.connection.driver_connection))
    except sqlite3.Error as error:
        raise OperationalError("BEGIN IMMEDIATE", None, error) from error


def _worth_a_retry(error: DBAPIError) -> bool:
    """Whether the database asks for the whole transaction again, and nothing of it has taken effect."""
    original = error.orig
    if isinstance(original, psycopg.Error):
        # A connection that broke at a statement had not begun its commit. One that could not be opened is no better
        # at the next try.
        broke = error.connection_invalidated and error.statement is not None
        return broke or original.sqlstate in _RETRY_STATES
    if isinstance(original, sqlite3.OperationalError):
        # Not SQLITE_BUSY itself: the other writer has been waited for already, as long as it may take.
        return getattr(original, "sqlite_errorcode", 0) in _RETRY_CODES
    return False


def _translated(error: DBAPIError) -> Exception:
    # A value that the database cannot hold is the caller's fault, and would be refused again and again.
    if isinstance(error, IntegrityError | DataError):
        return error
    original = cast("BaseException", error.orig)
    return unavailable(original)
