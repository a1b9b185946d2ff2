"""The audit: who did what, when, from where. Rows are added and read; the database refuses to change or remove one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from ..database.columns import db_now
from ..database.models import Audit
from .listings import Page, narrow, read_page

table = Audit.__table__


def record(
    connection: Connection, *, actor: str, address: str, action: str, target: str, details: Mapping[str, Any] | None
) -> None:
    """Add a row. `details` must hold no secret."""
    connection.execute(
        insert(table).values(
            at=db_now(),
            actor=actor,
            address=address,
            action=action,
            target=target,
            details=dict(details) if details is not None else None,
        )
    )


def page(
    connection: Connection, *, actor: str | None, action: str | None, target: str | None, limit: int, cursor: str | None
) -> Page:
    """Rows, newest first."""
    statement = narrow(select(table), (table.c.actor, actor), (table.c.action, action), (table.c.target, target))
    return read_page(connection, statement, table.c.seq, limit=limit, cursor=cursor)
