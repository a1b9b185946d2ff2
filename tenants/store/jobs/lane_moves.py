"""Moves waiting steps to another lane, after a newer version of their pipeline has changed it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, func, select, update

from ...database.models import Step
from ..states import WAITING

steps = Step.__table__


def waiting_lanes(connection: Connection) -> list[str]:
    """The lanes with waiting steps, by one index look-up a lane."""
    found: list[str] = []
    while True:
        query = select(func.min(steps.c.lane)).where(WAITING)
        lane = connection.execute(query.where(steps.c.lane > found[-1]) if found else query).scalar()
        if lane is None:
            return found
        found.append(lane)


def move(
    connection: Connection, lane: str, lane_of: Mapping[tuple[str, str], str], *, limit: int
) -> Collection[tuple[str, str]]:
    """Move up to `limit` steps that wait on `lane` to where `lane_of` (by pipeline and step) has them.

    Returns the id and the new lane of each.
    """
    columns = (steps.c.id, steps.c.pipeline, steps.c.name)
    rows = connection.execute(select(*columns).where(WAITING, steps.c.lane == lane).limit(limit)).all()
    moved = []
    for row in rows:
        target = lane_of.get((row.pipeline, row.name))
        if target is None or target == lane:
            continue
        changed = connection.execute(
            update(steps)
            .where(steps.c.id == row.id, WAITING, steps.c.lane == lane)
            .values(lane=target, dispatched_at=None)
        )
        if changed.rowcount:
            moved.append((row.id, target))
    return moved
