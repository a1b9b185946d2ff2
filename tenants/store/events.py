"""What happened to jobs, in order. Written in the transaction that made it happen, so an event is never a lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, false, func, or_, select, text

from ..database import EVENTS_RECORDED
from ..models import Event
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
    """Add events, in this order."""
    if new:
        rows = [{"account": e.account, "job_id": e.job_id, "type": e.type, "data": dict(e.data)} for e in new]
        insert_rows(connection, events, rows)
        connection.info[EVENTS_RECORDED] = True


def newest(connection: Connection) -> int:
    """The highest `seq` so far; 0 when there is none."""
    return int(connection.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one())


def after(connection: Connection, seq: int, *, limit: int = 1000) -> Sequence[RowMapping]:
    """Events with a higher `seq`, oldest first, for the hub that serves all of a process' readers."""
    return (
        connection.execute(select(events).where(events.c.seq > seq).order_by(events.c.seq).limit(limit))
        .mappings()
        .all()
    )


def within(connection: Connection, ranges: Ranges) -> Sequence[RowMapping]:
    """The events with numbers in these ranges, as far as they are committed; oldest first."""
    if not ranges:
        return ()
    return connection.execute(select(events).where(_in(ranges)).order_by(events.c.seq)).mappings().all()


def numbers(connection: Connection, low: int, high: int) -> Sequence[int]:
    """The numbers from `low` to `high` that are committed, ascending."""
    statement = select(events.c.seq).where(events.c.seq.between(low, high)).order_by(events.c.seq)
    return connection.execute(statement).scalars().all()


class Horizon(NamedTuple):
    """Transactions as a snapshot of PostgreSQL sees them."""

    #: All transactions with lower ids have ended.
    all_ended_below: int
    #: No transaction with this id or a higher one has begun.
    next_id: int


def horizon(connection: Connection) -> Horizon | None:
    """None on SQLite, whose only writer commits in the order of numbers."""
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
    """A job's events with a higher `seq` or one that was missing, oldest first."""
    statement = select(events).where(
        events.c.job_id == job_id, events.c.account == account, or_(events.c.seq > seq, _in(missing))
    )
    return connection.execute(statement.order_by(events.c.seq).limit(limit)).mappings().all()


def newest_of_job(
    connection: Connection, account: str, job_id: str, *, until: int | None = None, limit: int
) -> Sequence[int]:
    """Numbers of the job's last events, those up to `until` where it is given, the newest first."""
    return _newest(connection, until, limit, events.c.job_id == job_id, events.c.account == account)


def newest_of_account(connection: Connection, account: str, *, until: int, limit: int) -> Sequence[int]:
    """The same of an account."""
    return _newest(connection, until, limit, events.c.account == account)


def _newest(connection: Connection, until: int | None, limit: int, *of: ColumnElement[bool]) -> Sequence[int]:
    statement = select(events.c.seq).where(*of)
    if until is not None:
        statement = statement.where(events.c.seq <= until)
    return connection.execute(statement.order_by(events.c.seq.desc()).limit(limit)).scalars().all()


def of_account(
    connection: Connection, account: str, seq: int, missing: Ranges = (), *, limit: int = 1000
) -> Sequence[RowMapping]:
    """The same of an account."""
    statement = select(events).where(events.c.account == account, or_(events.c.seq > seq, _in(missing)))
    return connection.execute(statement.order_by(events.c.seq).limit(limit)).mappings().all()


def _in(ranges: Ranges) -> ColumnElement[bool]:
    return or_(false(), *(events.c.seq.between(low, high) for low, high in ranges))
