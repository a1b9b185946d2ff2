"""Events of jobs, in order; each is written in the transaction of the change that it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, false, func, or_, select, text

from ..database.models import Event
from ..database.transactions import EVENTS_RECORDED
from .bulk import insert_rows

events = Event.__table__

#: Ranges of numbers, first and last included.
Ranges = Sequence[tuple[int, int]]


class NewEvent(NamedTuple):
    """`type` is status, step, progress or log; `data` as the API shows it."""

    account: str
    job_id: str
    type: str
    data: Mapping[str, Any]


def record(connection: Connection, *new: NewEvent) -> None:
    """Insert events, in this order."""
    if new:
        rows = [{"account": e.account, "job_id": e.job_id, "type": e.type, "data": dict(e.data)} for e in new]
        insert_rows(connection, events, rows)
        connection.info[EVENTS_RECORDED] = True


def newest(connection: Connection) -> int:
    """The highest `seq` so far; 0 when there is none."""
    return int(connection.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one())


def after(connection: Connection, seq: int, *, limit: int = 1000) -> Sequence[RowMapping]:
    """Events with a higher `seq`, oldest first, for the event hub of the process."""
    statement = select(events).where(events.c.seq > seq).order_by(events.c.seq).limit(limit)
    return connection.execute(statement).mappings().all()


def within(connection: Connection, ranges: Ranges) -> Sequence[RowMapping]:
    """Committed events with numbers in these ranges, oldest first."""
    if not ranges:
        return ()
    return connection.execute(select(events).where(_in(ranges)).order_by(events.c.seq)).mappings().all()


def numbers(connection: Connection, low: int, high: int) -> Sequence[int]:
    """The committed numbers from `low` to `high`, ascending."""
    statement = select(events.c.seq).where(events.c.seq.between(low, high)).order_by(events.c.seq)
    return connection.execute(statement).scalars().all()


class Horizon(NamedTuple):
    """Bounds of a PostgreSQL snapshot."""

    #: All transactions with lower ids have ended.
    all_ended_below: int
    #: No transaction with this id or a higher one has begun.
    next_id: int


def horizon(connection: Connection) -> Horizon | None:
    """The current snapshot's bounds; None on SQLite, whose only writer commits in the order of numbers."""
    if connection.dialect.name == "sqlite":
        return None
    row = connection.execute(_HORIZON).one()
    return Horizon(row.ended, row.following)


_HORIZON = text(
    "SELECT pg_snapshot_xmin(s)::text::bigint AS ended, pg_snapshot_xmax(s)::text::bigint AS following"
    " FROM pg_current_snapshot() AS s"
)


def of_job(
    connection: Connection, account: str, job_id: str, seq: int, missing: Ranges = (), *, limit: int = 1000
) -> Sequence[RowMapping]:
    """A job's events with a higher `seq` or a number in `missing`, oldest first."""
    mine = and_(events.c.job_id == job_id, events.c.account == account)
    return _following(connection, mine, seq, missing, limit)


def of_account(
    connection: Connection, account: str, seq: int, missing: Ranges = (), *, limit: int = 1000
) -> Sequence[RowMapping]:
    """As `of_job`, of all the account's jobs."""
    return _following(connection, events.c.account == account, seq, missing, limit)


def _following(
    connection: Connection, mine: ColumnElement[bool], seq: int, missing: Ranges, limit: int
) -> Sequence[RowMapping]:
    statement = select(events).where(mine, or_(events.c.seq > seq, _in(missing)))
    return connection.execute(statement.order_by(events.c.seq).limit(limit)).mappings().all()


def newest_of_job(
    connection: Connection, account: str, job_id: str, *, until: int | None = None, limit: int
) -> Sequence[int]:
    """The numbers of the job's last events, up to `until` where it is given; newest first."""
    return _newest(connection, until, limit, events.c.job_id == job_id, events.c.account == account)


def newest_of_account(connection: Connection, account: str, *, until: int, limit: int) -> Sequence[int]:
    """As `newest_of_job`, of all the account's jobs."""
    return _newest(connection, until, limit, events.c.account == account)


def _newest(connection: Connection, until: int | None, limit: int, *of: ColumnElement[bool]) -> Sequence[int]:
    statement = select(events.c.seq).where(*of)
    if until is not None:
        statement = statement.where(events.c.seq <= until)
    return connection.execute(statement.order_by(events.c.seq.desc()).limit(limit)).scalars().all()


def _in(ranges: Ranges) -> ColumnElement[bool]:
    return or_(false(), *(events.c.seq.between(low, high) for low, high in ranges))
