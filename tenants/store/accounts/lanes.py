"""Settings of lanes, which hold for all accounts together."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from ...database.columns import upsert
from ...database.models import Lane

lanes = Lane.__table__

_DEFAULTS: dict[str, Any] = {"paused": False, "global_concurrency": None}


def settings(connection: Connection) -> dict[str, dict[str, Any]]:
    """`paused` and `global_concurrency` of each lane that was configured."""
    rows = connection.execute(select(lanes)).mappings()
    return {row["lane"]: {name: row[name] for name in _DEFAULTS} for row in rows}


def of(connection: Connection, lane: str) -> dict[str, Any]:
    """One lane's settings; the defaults if it was not configured."""
    return settings(connection).get(lane, dict(_DEFAULTS))


def change(connection: Connection, lane: str, **values: Any) -> dict[str, Any]:
    """Set some of a lane's settings; returns all former ones."""
    before = of(connection, lane)
    statement = upsert(connection, lanes).values(lane=lane, **{**_DEFAULTS, **values})
    connection.execute(statement.on_conflict_do_update(index_elements=["lane"], set_=values))
    return before
