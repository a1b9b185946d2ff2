"""Steps that Redis should hold, and what is sent there of each: for the dispatcher loop and the reconciler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, tuple_, update

from ..database.columns import db_now
from ..database.models import Step
from ..database.transactions import Database
from .bulk import among
from .states import WAITING

steps = Step.__table__
_ASKED_AT_ONCE = 1000
#: Waits for its first start, and is not known to be in Redis.
_UNMARKED = and_(steps.c.status == "queued", steps.c.run_token == 0, steps.c.dispatched_at.is_(None))


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A step to hand to Redis: what its message, its order and its delay are made of."""

    id: str
    account: str
    pipeline: str
    name: str
    lane: str
    priority: int
    sequence: int
    due_at: datetime | None

    @classmethod
    def of(cls, row: Any) -> Dispatch:
        """From a row of `steps`, as a mapping."""
        return cls(*_fields_of(row))


_fields_of = itemgetter(*Dispatch.__slots__)
_COLUMNS = [steps.c[name] for name in Dispatch.__slots__]
#: The order of the index of waiting steps. No two stand at one place: of a job, whose number `sequence` is, one waits.
_PLACE = ("lane", "account", "priority", "sequence")


def undispatched(connection: Connection, *, horizon_seconds: float, limit: int) -> list[Dispatch]:
    """Steps queued for a second or more that were not marked as dispatched, due within the horizon; oldest first."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(
            WAITING,
            steps.c.dispatched_at.is_(None),
            steps.c.queued_at < db_now(-1.0),
            _near(horizon_seconds),
        )
        .order_by(steps.c.queued_at)
        .limit(limit)
    ).mappings()
    return [Dispatch.of(row) for row in rows]


def waiting_of(connection: Connection, ids: Sequence[str], *, horizon_seconds: float) -> list[Dispatch]:
    """Those of these steps that wait and that Redis should hold."""
    # Asked for by nothing but their ids, as in `_mark`.
    waits = and_(WAITING, _near(horizon_seconds)).label("waits")
    rows = connection.execute(select(*_COLUMNS, waits).where(among(connection, steps.c.id, ids))).mappings()
    return [Dispatch.of(row) for row in rows if row["waits"]]


def waiting_in(
    connection: Connection, lane: str, account: str, *, horizon_seconds: float, older_than: float, limit: int
) -> list[Dispatch]:
    """Waiting steps of one tenant queue that Redis should hold, queued for so many seconds or more, in their order."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(
            steps.c.lane == lane,
            steps.c.account == account,
            WAITING,
            _near(horizon_seconds),
            steps.c.queued_at < db_now(-older_than),
        )
        .order_by(steps.c.priority, steps.c.sequence)
        .limit(limit)
    ).mappings()
    return [Dispatch.of(row) for row in rows]


def _near(horizon_seconds: float) -> ColumnElement[bool]:
    return or_(steps.c.due_at.is_(None), steps.c.due_at < db_now(horizon_seconds))


def wanted_messages(connection: Connection, ids: Sequence[str]) -> set[tuple[str, str, str]]:
    """Lane, account and id of those of these steps that wait or run: whose messages Redis may hold."""
    found: set[tuple[str, str, str]] = set()
    wanted = steps.c.status.in_(("queued", "retrying", "running"))
    for start in range(0, len(ids), _ASKED_AT_ONCE):
        chunk = ids[start : start + _ASKED_AT_ONCE]
        statement = select(steps.c.lane, steps.c.account, steps.c.id).where(steps.c.id.in_(chunk), wanted)
        found.update((row.lane, row.account, row.id) for row in connection.execute(statement))
    return found


def mark_dispatched(connection: Connection, ids: Sequence[str]) -> None:
    """Note that Redis holds them. A step that moved on meanwhile is left alone."""
    _mark(connection, ids, WAITING)


def _mark(connection: Connection, ids: Sequence[str], which: ColumnElement[bool]) -> None:
    """Mark those of these steps of which `which` still holds."""
    given = among(connection, steps.c.id, ids)
    mark = update(steps).values(dispatched_at=db_now())
    if connection.dialect.name != "postgresql":
        connection.execute(mark.where(given, which))
        return
    # Starts of several steps go together, too: of two that hold rows and wait for each other's one would fail. A row
    # that is held is about to start, or is sent and marked once more. The rows are asked for by nothing but their ids:
    # with `which` beside them the indexes of waiting steps would do as well, and one of those was gone through for
    # each of the ids. What is selected is read from the row once it is locked.
    free = select(steps.c.id, which.label("still")).where(given).with_for_update(skip_locked=True).cte("free")
    connection.execute(mark.where(free.c.still, steps.c.id == free.c.id))


def mark_first_dispatch(database: Database, ids: Sequence[str]) -> None:
    """Note that Redis holds those of them that wait and have never started.

    One that has started since may be to be sent anew, whatever was sent before; it is left alone.
    """
    if not ids:
        return

    def look(connection: Connection) -> list[str]:
        wanted = select(steps.c.id, _UNMARKED.label("wanted")).where(among(connection, steps.c.id, ids))
        return [row.id for row in connection.execute(wanted) if row.wanted]

    # Most have started by now: their rows are not locked, and SQLite's one writer is not held up, for nothing.
    unmarked = database.read(look)
    if unmarked:
        database.write(lambda connection: _mark(connection, unmarked, _UNMARKED))


def unmark_dispatched(connection: Connection, step_id: str) -> None:
    """Note that Redis does not hold a waiting step any more, so that the dispatcher loop sends it."""
    connection.execute(update(steps).where(steps.c.id == step_id, WAITING).values(dispatched_at=None))


def waiting_after(
    connection: Connection, last: Dispatch | None, *, horizon_seconds: float, limit: int, older_than: float = 0.0
) -> list[Dispatch]:
    """Waiting steps that Redis should hold, after `last`, each tenant queue in its order: for a rebuild, page by page.

    They come in the order of the index of waiting steps, so that a page costs what it holds, whatever else waits and
    however much has ended. A step's place in it never changes; what is queued meanwhile is sent by whoever queues it.
    What is due later than `horizon_seconds` is left out, and what was queued less than `older_than` seconds ago.
    """
    place = tuple_(*(steps.c[name] for name in _PLACE))
    statement = select(*_COLUMNS).where(WAITING, _near(horizon_seconds))
    if older_than:
        statement = statement.where(steps.c.queued_at < db_now(-older_than))
    if last is not None:
        statement = statement.where(place > tuple_(*(getattr(last, name) for name in _PLACE)))
    rows = connection.execute(statement.order_by(*place.clauses).limit(limit)).mappings()
    return [Dispatch.of(row) for row in rows]
