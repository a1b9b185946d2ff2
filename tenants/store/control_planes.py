"""Heartbeats of control planes, so that other processes can take over the idempotency keys of a dead one.

renewal every 2 s · dead after 10 s, and at once after an orderly stop · all times are the database's
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, select

from ..database.columns import db_now, upsert
from ..database.models import ControlPlane

table = ControlPlane.__table__

RENEWAL_SECONDS = 2.0
DEAD_SECONDS = 10.0
#: Rows of processes that died longer ago are removed.
_FORGOTTEN_SECONDS = 86_400.0


def renew(connection: Connection, *, id: str, host: str, pid: int) -> None:
    """Write the process' heartbeat, and its row if there is none."""
    statement = upsert(connection, table).values(id=id, host=host, pid=pid, heartbeat_at=db_now())
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"heartbeat_at": db_now()}))


def stop(connection: Connection, id: str) -> None:
    """Remove the process' row, and those of processes that died long ago."""
    gone = table.c.heartbeat_at < db_now(-_FORGOTTEN_SECONDS)
    connection.execute(delete(table).where((table.c.id == id) | gone))


def is_alive(id: ColumnElement[str | None]) -> ColumnElement[bool]:
    """Whether the process with that id has a recent heartbeat."""
    return select(table.c.id).where(table.c.id == id, table.c.heartbeat_at >= db_now(-DEAD_SECONDS)).exists()
