"""All rows of an account for an export, read by index a page at a time, each page in a short transaction.

Rows that are created after the beginning are left out, so the export ends however busy the account is. It is not a
snapshot: each row is shown as it was when its page was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, LargeBinary, RowMapping, func, select, tuple_

from ...database.models import DeadLetter, Event, Fire, Job, Schedule
from ...database.transactions import Database
from ..accounts import accounts, usage
from . import holdings
from .holdings import Holding

#: Rows of a page. A job and its steps may hold a MiB each, so there are few of them.
ROWS, JOBS = 500, 50

_OF_A_JOB = ("steps", "attempts", "artifacts", "drafts", "publications")
#: Tables with a growing `seq`, read up to the highest at the beginning.
_GROWING = (DeadLetter.__table__, Event.__table__)


class Row(NamedTuple):
    """One row: the kind of its table, and its columns without the hidden ones."""

    kind: str
    data: dict[str, Any]


def rows(database: Database, account: str) -> Iterator[Row]:
    """Every row of the account, its settings first.

    Raises:
        NotFound: at the first row: the account does not exist.
        Unavailable: at any row, as `Database.read`.
    """
    found = database.read(lambda connection: accounts.fetch(connection, account))
    newest = database.read(lambda connection: _newest(connection, account))
    yield _row(holdings.ACCOUNT, found)
    for holding in holdings.SETTINGS:
        if holding.kind == "usage":
            yield from _usage(database, account)
        elif holding.kind == "fire":
            yield from _fires(database, account)
        else:
            yield from _all(database, holding, holding.owner == account)
    yield from _jobs(database, account, newest["jobs"])
    for holding in holdings.BESIDE_JOBS:
        table = holding.table
        if table.name not in _OF_A_JOB:
            yield from _all(database, holding, holding.owner == account, table.c.seq <= newest[table.name])


def _newest(connection: Connection, account: str) -> dict[str, int]:
    return {
        table.name: connection.execute(select(func.max(table.c.seq)).where(table.c.account == account)).scalar() or 0
        for table in (Job.__table__, *_GROWING)
    }


def _all(database: Database, holding: Holding, *where: ColumnElement[bool], limit: int = ROWS) -> Iterator[Row]:
    for page in _pages(database, holding, *where, limit=limit):
        yield from (_row(holding, row) for row in page)


def _pages(
    database: Database, holding: Holding, *where: ColumnElement[bool], limit: int
) -> Iterator[Sequence[RowMapping]]:
    """Pages of a table in the order of its primary key."""
    key = list(holding.table.primary_key.columns)
    last: tuple[Any, ...] | None = None

    def read(connection: Connection) -> Sequence[RowMapping]:
        statement = select(holding.table).where(*where).order_by(*key).limit(limit)
        if last is not None:
            statement = statement.where(key[0] > last[0] if len(key) == 1 else tuple_(*key) > last)
        return connection.execute(statement).mappings().all()

    while True:
        page = database.read(read)
        if page:
            yield page
        if len(page) < limit:
            return
        last = tuple(page[-1][column] for column in key)


def _jobs(database: Database, account: str, newest: int) -> Iterator[Row]:
    """Jobs by page, each page followed by the rows that refer to its jobs."""
    jobs = holdings.JOBS.table
    beside = [each for each in holdings.ALL if each.table.name in _OF_A_JOB]
    for page in _pages(database, holdings.JOBS, jobs.c.account == account, jobs.c.seq <= newest, limit=JOBS):
        yield from (_row(holdings.JOBS, row) for row in page)
        ids = [row["id"] for row in page]
        for holding in beside:
            yield from (_row(holding, row) for row in database.read(_of_jobs(holding, ids)))


def _of_jobs(holding: Holding, ids: Sequence[str]) -> Callable[[Connection], Sequence[RowMapping]]:
    statement = select(holding.table).where(holding.table.c.job_id.in_(ids)).order_by(*holding.table.primary_key)
    return lambda connection: connection.execute(statement).mappings().all()


def _fires(database: Database, account: str) -> Iterator[Row]:
    """Fires by schedule, for which there is an index."""
    schedules, fires = Schedule.__table__, Fire.__table__
    holding = next(each for each in holdings.SETTINGS if each.table is fires)
    of_account = select(schedules.c.id).where(schedules.c.account == account)
    for schedule_id in database.read(lambda connection: connection.execute(of_account).scalars().all()):
        yield from _all(database, holding, fires.c.schedule_id == schedule_id)


def _usage(database: Database, account: str) -> Iterator[Row]:
    """Usage as the API shows it, with the seconds of attempts that were not removed."""
    for day in database.read(lambda connection: usage.of_account(connection, account)):
        yield Row("usage", day)


def _row(holding: Holding, row: RowMapping) -> Row:
    shown, sealed = _names(holding)
    data = {name: row[name] for name in shown}
    if sealed:
        data["sealed"] = [name for name in sealed if row[name] is not None]
    return Row(holding.kind, data)


@cache
def _names(holding: Holding) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that are shown, and the sealed ones, of which only the presence is."""
    hidden = [column for column in holding.table.c if column.name in holding.hidden]
    shown = tuple(column.name for column in holding.table.c if column.name not in holding.hidden)
    return shown, tuple(column.name for column in hidden if isinstance(column.type, LargeBinary))
