"""Waiting steps whose lane a newer version of their pipeline has left: they move to the lane that it has now."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, func, select, update

from ..models import Step
from .states import WAITING

steps = Step.__table__


def waiting_lanes(connection: Connection) -> list[str]:
    """The lanes on which steps wait, by one look into the index for each."""
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
    """Move at most `limit` steps that wait on `lane`; gives back the id and the new lane of each.

    Args:
        connection: of a transaction that writes.
        lane: nobody serves it.
        lane_of: the lane of each pipeline and step by their names.
        limit: see above.
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
