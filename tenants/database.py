"""The database: one engine, and transactions that are retried when the database asks for it.

Invariants
- `write` runs one transaction from begin to commit. On SQLite it begins immediate, and writers of one process queue up
  for it in order; SQLite's own waiting is a poll with pauses up to 100 ms, which showed as latency.
- `work` may run more than once (deadlock, serialization failure, a connection that broke before the commit), so it
  must not have effects outside its transaction.
- A connection lost in the middle of a commit leaves the outcome open. It is never repeated here: `CommitUnknown` says
  so.
"""

from __future__ import annotations

import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .columns import sqlite_now, sqlite_seconds_since
from .combining import Combined, Interrupted
from .errors import Unavailable
from .prepared import Prepared

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection], Any]
#: Gives an answer for each of some items, within one transaction.
_RunAll = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
_Item = Mapping[str, Any]
_StatementFor = Callable[[Sequence[_Item]], str]

#: Noted in a connection's `info` by the transaction that recorded events.
EVENTS_RECORDED = "onelane_events_recorded"

#: Where a connection's `info` keeps what it has prepared.
_PREPARED = "onelane_prepared"

#: How often a transaction that the database refused is tried in all.
MAX_TRIES = 6
#: Seconds that a statement may take on PostgreSQL before it is cancelled.
STATEMENT_TIMEOUT_SECONDS = 30
#: Seconds after which a connection is given up whose other end acknowledges nothing.
TCP_SECONDS = 20
#: Seconds that SQLite waits for a writer of another process.
SQLITE_BUSY_SECONDS = 15

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
            ValueError: the URL is of neither kind.
        """
        self.url = _driver_url(url)
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if _is_sqlite(self.url) else "postgresql"
        self.engine = _make_engine(self.url, pool_size)
        #: Called after a commit that recorded events, so that whoever waits for them is told. It must not block.
        self.on_events: Callable[[], None] | None = None
        #: Writers of this process, one at a time on SQLite, which has one writer anyway.
        self._writing: AbstractContextManager[Any] = threading.Lock() if self.dialect == "sqlite" else nullcontext()
        #: On SQLite, short transactions that share a commit.
        self._together = Combined(self._run_all_on_sqlite, turn=self._writing)
        #: On PostgreSQL, items that share a statement, by what makes the statement for them.
        self._shared: dict[_StatementFor, Combined[_Item, Any]] = {}
        self._writer = self.engine.execution_options(onelane_begin="BEGIN IMMEDIATE")
        self._reader = (
            self.engine.execution_options(isolation_level="AUTOCOMMIT")
            if self.dialect == "postgresql"
            else self.engine.execution_options(onelane_begin="BEGIN")
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
                    raise _translated(error) from error
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
        for tries in range(1, MAX_TRIES + 1):
            try:
                with self._reader.connect() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not _worth_a_retry(error) or tries == MAX_TRIES:
                    raise _translated(error) from error
            except PoolTimeout as error:
                raise Unavailable(f"no database connection became free: {error}") from error
        raise AssertionError("unreachable: the last try returns or raises")

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
        shared = self._shared.get(statement_for)
        if shared is None:
            run_all = functools.partial(self._run_for_all, statement_for)
            made: Combined[_Item, Any] = Combined(run_all)
            shared = self._shared.setdefault(statement_for, made)
        try:
            row: dict[str, Any] | None = shared.run(item)
        except Interrupted as error:
            raise CommitUnknown(str(error)) from error
        return row

    def _run_for_all(self, statement_for: _StatementFor, items: Sequence[_Item]) -> list[Any]:
        """The object of each item, None, or its error."""
        arrays = {name: _array_literal([item[name] for item in items]) for name in items[0]}
        try:
            rows = {row["place"]: row for row in self._run_for_rows(statement_for(items), arrays)}
        except (IntegrityError, DataError) as error:
            # One of them is to blame, and nothing was written: each is told by itself.
            if len(items) == 1:
                return [error]
            return [self._run_for_all(statement_for, [item])[0] for item in items]
        except Unavailable as error:
            # Each thread raises an error of its own: one that several raise would mix their tracebacks.
            return [type(error)(*error.args) for _ in items]
        return [rows.get(place) for place in range(1, len(items) + 1)]

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
                    raise Unavailable(f"the database failed: {_in_one_line(error)}") from error
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
        if self.on_events is not None:
            self.on_events()
        return rows

    def _run_for_rows(self, statement: str, arrays: Mapping[str, str]) -> list[dict[str, Any]]:
        """Run a statement that gives its rows as one JSON list."""

        def run() -> list[dict[str, Any]]:
            with self._committing_itself() as pooled:
                prepared = pooled.info.get(_PREPARED)
                if prepared is None:
                    driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
                    prepared = pooled.info[_PREPARED] = Prepared.on(driver)
                rows: list[dict[str, Any]] | None = prepared.run(statement, arrays)
            if self.on_events is not None:
                self.on_events()
            return rows or []

        return self._retried(statement, run)

    @contextmanager
    def _committing_itself(self) -> Iterator[PoolProxiedConnection]:
        """A connection of the pool on which each statement commits itself; the error of one that is lost is told."""
        # Below SQLAlchemy's own connection, whose bookkeeping costs more than such a statement takes to run.
        pooled = self.engine.raw_connection()
        try:
            driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
            driver.autocommit = True
            try:
                yield pooled
            except psycopg.Error as error:
                if not driver.closed:
                    raise
                pooled.invalidate(error)
                raise CommitUnknown(
                    "the database connection was lost in the middle of a statement; its outcome is unknown"
                ) from error
            finally:
                if not driver.closed:
                    driver.autocommit = False
        finally:
            pooled.close()

    def run_on_sqlite(self, work: Callable[[sqlite3.Connection], T | None]) -> T | None:
        """Run one transaction on SQLite's own connection, below SQLAlchemy; None from `work` rolls it back.

        Those of several threads share a commit, because the flush to disk takes longer than all that they write.

        Raises:
            IntegrityError: a constraint refused it.
            Unavailable: the database is locked for too long, cannot be opened, or its disk is full.
            CommitUnknown: the thread that ran it together with its own was interrupted.
        """
        return cast("T | None", self._share_commit(_alone, work))

    def run_together_on_sqlite(self, run_all: _RunAll, item: Any) -> Any | None:
        """Run one transaction on SQLite for this item and those that other threads bring with the same function.

        Args:
            run_all: gives an answer for each item, in their order; None for one for which it has written nothing. It
                is called again for each item by itself where it raises an error for several.
            item: what it shall do.

        Raises: as `run_on_sqlite`, for this item.
        """
        return self._share_commit(run_all, item)

    def _share_commit(self, run_all: _RunAll, item: Any) -> Any:
        try:
            return self._together.run((run_all, item))
        except Interrupted as error:
            raise CommitUnknown(str(error)) from error

    def _run_all_on_sqlite(self, calls: Sequence[tuple[_RunAll, Any]]) -> list[Any]:
        """Transactions with one commit, of which each takes effect or is rolled back by itself."""
        try:
            with closing(self.engine.raw_connection()) as pooled:
                driver = cast("sqlite3.Connection", pooled.driver_connection)
                try:
                    driver.execute("BEGIN IMMEDIATE")
                    answers = _run_all(driver, calls)
                    driver.execute("COMMIT")
                finally:
                    if driver.in_transaction:
                        driver.rollback()
        except (sqlite3.Error, PoolTimeout) as error:
            # Each thread raises an error of its own: one that several raise would mix their tracebacks.
            return [_translated_from_sqlite(error) for _ in calls]
        if self.on_events is not None:
            self.on_events()
        return answers

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        with self._writing, self._writer.connect() as connection:
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
        if happened and self.on_events is not None:
            self.on_events()
        return result

    def ping(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        self.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    def migrate(self) -> None:
        """Bring the schema up to date. Safe to call from several processes at once."""
        from .migrations import upgrade

        if self.dialect == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            upgrade(self.engine)
        except DBAPIError as error:
            raise _translated(error) from error

    def pending_migrations(self) -> list[str]:
        """Revisions that the schema lacks, oldest first; empty when it is up to date."""
        from .migrations import pending

        return pending(self.engine)

    def close(self) -> None:
        self.engine.dispose()


def _array_literal(values: Sequence[str | int | bool]) -> str:
    """PostgreSQL's text of an array. The driver's own takes ten times as long, which was a tenth of a worker's time."""
    return "{" + ",".join([_element(value) if isinstance(value, str) else str(value) for value in values]) + "}"


def _element(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _run_all(driver: sqlite3.Connection, calls: Sequence[tuple[_RunAll, Any]]) -> list[Any]:
    """What each call gives, or its error; calls that have the same function are made as one."""
    groups = _groups(calls)
    if all(run_all is not _alone for run_all, _ in groups):
        try:
            return _run_groups(calls, groups, lambda run_all, items: run_all(driver, items))
        except Exception:
            if not driver.in_transaction:
                raise  # SQLite has rolled all of it back: the disk is full, say
            # It is seldom, and savepoints take time: so only now each has its own.
            driver.execute("ROLLBACK")
            driver.execute("BEGIN IMMEDIATE")
    return _run_groups(calls, groups, functools.partial(_within, driver))


def _run_groups(
    calls: Sequence[tuple[_RunAll, Any]],
    groups: Sequence[tuple[_RunAll, list[int]]],
    run: Callable[[_RunAll, Sequence[Any]], Sequence[Any]],
) -> list[Any]:
    answers: list[Any] = [None] * len(calls)
    for run_all, places in groups:
        given = run(run_all, [calls[place][1] for place in places])
        for place, answer in zip(places, given, strict=True):
            answers[place] = answer
    return answers


def _groups(calls: Sequence[tuple[_RunAll, Any]]) -> list[tuple[_RunAll, list[int]]]:
    """The places of the calls that can be made as one, by what makes them."""
    together: dict[_RunAll, list[int]] = {}
    alone: list[tuple[_RunAll, list[int]]] = []
    for place, (run_all, _) in enumerate(calls):
        if run_all is _alone:
            alone.append((run_all, [place]))
        else:
            together.setdefault(run_all, []).append(place)
    return [*together.items(), *alone]


def _alone(driver: sqlite3.Connection, works: Sequence[_Work]) -> list[Any]:
    """Makes a transaction that stands for itself like one of many."""
    return [work(driver) for work in works]


def _within(driver: sqlite3.Connection, run_all: _RunAll, items: Sequence[Any]) -> Sequence[Any]:
    """What is given for each item; what was written is gone where that is None or an error."""
    driver.execute("SAVEPOINT one")
    try:
        answers = run_all(driver, items)
    except Exception as error:
        if not driver.in_transaction:
            raise  # SQLite has rolled all of it back: the disk is full, say
        driver.execute("ROLLBACK TO one")
        if len(items) > 1:  # one of them is to blame
            answers = [answer for item in items for answer in _within(driver, run_all, [item])]
        else:
            answers = [_translated_from_sqlite(error)]
    else:
        if all(answer is None for answer in answers):
            driver.execute("ROLLBACK TO one")
    driver.execute("RELEASE one")
    return answers


def _translated_from_sqlite(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError):
        return IntegrityError("on SQLite", None, error)
    if isinstance(error, sqlite3.Error):
        failure = Unavailable(f"the database failed: {_in_one_line(error)}")
    elif isinstance(error, PoolTimeout):
        failure = Unavailable(f"no database connection became free: {error}")
    else:
        return error
    failure.__cause__ = error
    return failure


def _driver_url(url: str) -> URL:
    parsed = make_url(url)
    if _is_sqlite(parsed):
        return parsed.set(drivername="sqlite")
    if parsed.drivername.split("+")[0] in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ValueError(
        f"the database URL starts with {parsed.drivername!r}; give sqlite:///path or postgresql://user@host/name"
    )


def _is_sqlite(url: URL) -> bool:
    return url.drivername.split("+")[0] == "sqlite"


def _make_engine(url: URL, pool_size: int) -> Engine:
    # The connection that was used last is used next: its statements are prepared, and its server's caches are warm.
    options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 10, "pool_use_lifo": True}
    if _is_sqlite(url):
        engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        connect_args={
            "connect_timeout": 5,
            # A plan is kept with the connection: one that was made while a table was small must not be to read all of
            # it. Everything that is asked has an index.
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s -c lock_timeout=10s"
            " -c idle_in_transaction_session_timeout=60s -c timezone=UTC -c jit=off -c enable_seqscan=off",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # Keepalives are silent while something that was sent waits for its acknowledgement. Without this a host
            # that vanished in the middle of a statement is waited for until the kernel gives up, a quarter of an hour.
            "tcp_user_timeout": TCP_SECONDS * 1000,
            # Each statement is prepared at its second use: planning costs more than running these short statements.
            "prepare_threshold": 2,
        },
        **options,
    )


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
    end = time.monotonic() + SQLITE_BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("onelane_begin", "BEGIN IMMEDIATE"))


def _worth_a_retry(error: DBAPIError) -> bool:
    """Whether the database asks for the whole transaction again, and nothing of it has taken effect."""
    original = error.orig
    if isinstance(original, psycopg.Error):
        # A connection that broke at a statement had not begun its commit. One that could not be opened is no better
        # at the next try.
        broke = error.connection_invalidated and error.statement is not None
        return broke or original.sqlstate in _RETRY_STATES
    if isinstance(original, sqlite3.OperationalError):
        # Not SQLITE_BUSY itself: SQLite has waited for the other writer already, as long as it may.
        return getattr(original, "sqlite_errorcode", 0) in _RETRY_CODES
    return False


def _translated(error: DBAPIError) -> Exception:
    # A value that the database cannot hold is the caller's fault, and would be refused again and again.
    if isinstance(error, IntegrityError | DataError):
        return error
    original = cast("BaseException", error.orig)
    return Unavailable(f"the database failed: {_in_one_line(original)}")


def _in_one_line(error: BaseException) -> str:
    """PostgreSQL's hints come on lines of their own, which a log takes for other messages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
