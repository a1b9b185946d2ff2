"""The database: three ways to run SQL (read, write, batch), and when a transaction is tried again.

Invariants
- `write` and `batch` run one transaction from begin to commit. On SQLite it begins immediate, and writers take turns
  (`sqlite_writer_lock`).
- What is given to them may run more than once (deadlock, serialization failure, a connection that broke before the
  commit), so it must not have effects outside its transaction.
- A connection that is lost in the middle of a commit leaves the outcome unknown. It is never repeated here: the caller
  gets `CommitUnknown`, and may repeat the write with the same ids.
"""

from __future__ import annotations

import functools
import operator
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, Literal, TypeVar, cast

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import NotWritable, Unavailable
from . import sqlite_writer_lock
from .batching import BatchExecutor, BatchFailed
from .engine import READ_ONLY, is_sqlite, make_postgres_engine, make_sqlite_engine
from .postgres_sessions import PostgresSessions, is_shared
from .postgres_statements import PreparedStatements
from .sqlite_writer_lock import WriterLock, is_busy
from .trouble import unavailable
from .url import parse

T = TypeVar("T")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

#: Returns an answer for each item, in their order, within one transaction.
RunAll = (
    Callable[[Connection, Sequence[Item]], Sequence[Answer]]
    | Callable[[PreparedStatements, Sequence[Item]], Sequence[Answer]]
)
_Call = tuple[Callable[[Any, Sequence[Any]], Sequence[Any]], Any]

#: Noted in a connection's `info` by the transaction that recorded events.
EVENTS_RECORDED = "onelane_events_recorded"
#: How often a transaction that the database refused is tried in all.
MAX_TRIES = 6

#: PostgreSQL: read_only_sql_transaction, from a server that was the primary until a failover and kept its connections.
_READ_ONLY_STATE = "25006"
#: PostgreSQL: serialization_failure, deadlock_detected, lock_not_available; and the above, on other connections.
_RETRY_STATES = frozenset({"40001", "40P01", "55P03", _READ_ONLY_STATE})
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
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if is_sqlite(self.url) else "postgresql"
        #: Why the last write that failed so was not possible (`NotWritable`); `store.writability` sets it back.
        self.not_writable: str | None = None
        #: Called after a commit that recorded events, to notify their listeners. It must not block.
        self.on_events: Callable[[], None] | None = None
        self._writer_lock: WriterLock | None = None
        self._sessions: PostgresSessions | None = None
        if self.dialect == "sqlite":
            self._writer_lock = WriterLock(self.url.database or "")
            self.engine = make_sqlite_engine(self.url, pool_size, self._writer_lock)
            self._reader = self.engine.execution_options(**{READ_ONLY: True})
        else:
            self._sessions = PostgresSessions(self.url)
            self.engine = make_postgres_engine(self.url, pool_size, self._sessions)
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        # On SQLite a commit is shared by whatever is queued, on PostgreSQL a statement by the items that it is for.
        # Two batches beside each other would each have half as many items, and compete for the GIL.
        self._batches: BatchExecutor[_Call, Any] = BatchExecutor(
            self._run_batch, key=None if self.dialect == "sqlite" else operator.itemgetter(0)
        )

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which only reads. On SQLite it sees one snapshot.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return self._with_retries(functools.partial(self._read_once, work), reads=True)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and commit it.

        Raises:
            Unavailable: the database cannot be reached, or refused the transaction too often.
            CommitUnknown: the connection was lost in the middle of the commit.
        """
        return self._with_retries(functools.partial(self._write_once, work))

    def batch(self, run_all: RunAll[Item, Answer], item: Item) -> Answer:
        """Run a short transaction for this item, shared with items that other threads bring at the same time.

        An item that is alone runs at once, in this thread. An error that one item may have caused is raised to that
        item's caller only: the batch is rolled back, and repeated item by item.

        Args:
            run_all: called with a connection and some items. The same function for all items that may share a batch.
                On SQLite the connection is SQLAlchemy's, within the transaction. On PostgreSQL it is
                `PreparedStatements`, and `run_all` runs exactly one statement, which commits itself.
            item: what `run_all` shall be called with.

        Raises:
            IntegrityError: a constraint refused this item. And whatever else `run_all` raised for it.
            Unavailable: the database cannot be reached, or refused the transaction too often.
            CommitUnknown: the connection was lost before the answer came, or the batch failed unexpectedly.
        """
        try:
            answer: Answer = self._batches.run((run_all, item))
        except BatchFailed as error:
            raise CommitUnknown(str(error)) from error
        return answer

    @property
    def queued_items(self) -> int:
        """Items of `batch` that wait for the batch that runs."""
        return self._batches.queued

    def _run_batch(self, calls: Sequence[_Call]) -> list[Any]:
        """The answer or the error of each call."""
        try:
            if self.dialect == "sqlite":
                return self._with_retries(
                    functools.partial(self._write_once, functools.partial(_run_groups, calls=calls))
                )
            return self._with_retries(functools.partial(self._run_statement, calls[0][0], [item for _, item in calls]))
        except Exception as error:
            if len(calls) == 1:
                return [error]
            if self._one_item_may_have_caused(error):
                return [answer for call in calls for answer in self._run_batch([call])]
            if isinstance(error, Unavailable):
                # Each thread raises an error of its own: one that several raise would mix their tracebacks.
                return [type(error)(*error.args) for _ in calls]
            raise

    def _one_item_may_have_caused(self, error: Exception) -> bool:
        """And nothing was committed."""
        if self.dialect == "postgresql":
            return isinstance(error, IntegrityError | DataError)
        return not isinstance(error, Unavailable) or isinstance(error, NotWritable)

    def _with_retries(self, run: Callable[[], T], *, reads: bool = False) -> T:
        """Run a transaction, again where the database asks for that."""
        busy_until = time.monotonic() + sqlite_writer_lock.BUSY_SECONDS
        tries = 0
        while True:
            try:
                return run()
            except DBAPIError as error:
                # A reader of SQLite waits while another process opens the database after a crash, or leaves it.
                locked = reads and isinstance(error.orig, sqlite3.Error) and is_busy(error.orig)
                if not (locked and time.monotonic() < busy_until):
                    tries += 1
                    if tries == MAX_TRIES or not _worth_a_retry(error):
                        failure = _translated(error)
                        if isinstance(failure, NotWritable) and not reads:
                            self.not_writable = failure.reason
                        raise failure from error
                if isinstance(error.orig, psycopg.Error) and error.orig.sqlstate == _READ_ONLY_STATE:
                    self.engine.dispose()  # so that the next try asks anew for the server that takes writes
            except PoolTimeout as error:
                raise Unavailable(f"no database connection became free: {error}") from error
            time.sleep(random.uniform(0, 0.01 * 2**tries))

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        with self._reader.connect() as connection:
            if is_shared(connection.connection):
                # Our time-outs hold for a transaction there, so it has one.
                connection.execution_options(isolation_level="READ COMMITTED")
            return work(connection)

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        with self._writing(), self.engine.connect() as connection:
            connection.info.pop(EVENTS_RECORDED, None)  # left behind by a transaction that was rolled back
            result = work(connection)
            recorded = connection.info.pop(EVENTS_RECORDED, False)
            if self.dialect == "sqlite" and connection.in_transaction():
                driver = cast("sqlite3.Connection", connection.connection.driver_connection)
                if not driver.in_transaction:  # its `commit` would do nothing, and say nothing
                    raise Unavailable("the transaction was rolled back before its commit")
            try:
                connection.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise CommitUnknown(
                        "the database connection was lost in the middle of a commit; its outcome is unknown"
                    ) from error
                raise
        if recorded:
            self._notify()
        return result

    def _run_statement(self, run_all: Callable[[Any, Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
        """Run a batch on PostgreSQL, below SQLAlchemy's own connection, whose bookkeeping costs more than the rest."""
        assert self._sessions is not None
        try:
            with closing(self.engine.raw_connection()) as pooled:
                driver = cast("psycopg.Connection[Any]", pooled.driver_connection)
                try:
                    with self._sessions.autocommit(pooled):
                        answers = list(run_all(PreparedStatements.of(pooled), items))
                except psycopg.Error as error:
                    if not driver.closed:
                        raise
                    pooled.invalidate(error)
                    raise CommitUnknown(
                        "the database connection was lost in the middle of a statement; its outcome is unknown"
                    ) from error
        except psycopg.Error as error:
            raise DBAPIError.instance(None, None, error, psycopg.Error) from error
        self._notify()
        return answers

    def _writing(self) -> AbstractContextManager[None]:
        return self._writer_lock or nullcontext()

    def _notify(self) -> None:
        if self.on_events is not None:
            self.on_events()

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler such as pgbouncer stands before the server; known after the first call that reached it."""
        return bool(self._sessions and self._sessions.shared)

    def ping(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        self.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    @contextmanager
    def exclusive_engine(self) -> Iterator[Engine]:
        """The engine, for migrations: on SQLite no other thread writes meanwhile.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            with self._writing():
                yield self.engine
        except DBAPIError as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Close all connections, after the batches that are queued."""
        self._batches.close()
        self.engine.dispose()
        if self._writer_lock is not None:
            self._writer_lock.close()


def _run_groups(connection: Connection, *, calls: Sequence[_Call]) -> list[Any]:
    """The answers of calls that share a transaction; those of one function are made as one."""
    groups: dict[Any, list[int]] = {}
    for place, (run_all, _) in enumerate(calls):
        groups.setdefault(run_all, []).append(place)
    answers: list[Any] = [None] * len(calls)
    for run_all, places in groups.items():
        for place, answer in zip(places, run_all(connection, [calls[at][1] for at in places]), strict=True):
            answers[place] = answer
    return answers


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
    return unavailable(cast("BaseException", error.orig))
