"""Steps that Redis should hold, and what is sent there of each: for the dispatcher loop and the reconciler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from ..columns import db_now
from ..database import Database
from ..models import Step
from .bulk import among

steps = Step.__table__
_ASKED_AT_ONCE = 1000
_WAITING = steps.c.status.in_(("queued", "retrying"))


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


def undispatched(connection: Connection, *, horizon_seconds: float, limit: int) -> list[Dispatch]:
    """Steps queued for a second or more that were not marked as dispatched, due within the horizon; oldest first."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(
            steps.c.status.in_(("queued", "retrying")),
            steps.c.dispatched_at.is_(None),
            steps.c.queued_at < db_now(-1.0),
            or_(steps.c.due_at.is_(None), steps.c.due_at < db_now(horizon_seconds)),
        )
        .order_by(steps.c.queued_at)
        .limit(limit)
    ).mappings()
    return [Dispatch.of(row) for row in rows]


def waiting_of(connection: Connection, ids: Sequence[str], *, horizon_seconds: float) -> list[Dispatch]:
    """Those of these steps that wait and that Redis should hold."""
    near = or_(steps.c.due_at.is_(None), steps.c.due_at < db_now(horizon_seconds))
    rows = connection.execute(select(*_COLUMNS).where(_WAITING, steps.c.id.in_(ids), near)).mappings()
    return [Dispatch.of(row) for row in rows]


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
    _mark(connection, and_(steps.c.id.in_(ids), _WAITING))


def _mark(connection: Connection, which: ColumnElement[bool]) -> None:
    # Starts of several steps go together, too: of two that hold rows and wait for each other's one would fail. A row
    # that is held is about to start, or is sent and marked once more.
    free = select(steps.c.id).where(which).with_for_update(skip_locked=True)
    # Said twice, so that the rows are looked up by their ids whatever their number is taken for.
    connection.execute(update(steps).where(which, steps.c.id.in_(free)).values(dispatched_at=db_now()))


def mark_first_dispatch(database: Database, ids: Sequence[str]) -> None:
    """Note that Redis holds those of them that wait and have never started.

    One that has started since may be to be sent anew, whatever was sent before; it is left alone.
    """
    if not ids:
        return

    def mark(connection: Connection) -> None:
        _mark(connection, _unmarked(connection, ids))

    def is_any(connection: Connection) -> bool:
        return connection.execute(select(steps.c.id).where(_unmarked(connection, ids)).limit(1)).first() is not None

    # SQLite has one writer; it is not held up for steps that have all started.
    if database.dialect == "postgresql" or database.read(is_any):
        database.write(mark)


def _unmarked(connection: Connection, ids: Sequence[str]) -> ColumnElement[bool]:
    never_started = and_(steps.c.status == "queued", steps.c.run_token == 0, steps.c.dispatched_at.is_(None))
    return and_(among(connection, steps.c.id, ids), never_started)


def unmark_dispatched(connection: Connection, step_id: str) -> None:
    """Note that Redis does not hold a waiting step any more, so that the dispatcher loop sends it."""
    connection.execute(update(steps).where(steps.c.id == step_id, _WAITING).values(dispatched_at=None))


def waiting_after(connection: Connection, step_id: str, *, horizon_seconds: float, limit: int) -> list[Dispatch]:
    """All waiting steps that Redis should hold, by id, for a rebuild that goes through them once."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(
            _WAITING,
            steps.c.id > step_id,
            or_(steps.c.due_at.is_(None), steps.c.due_at < db_now(horizon_seconds)),
        )
        .order_by(steps.c.id)
        .limit(limit)
    ).mappings()
    return [Dispatch.of(row) for row in rows]
