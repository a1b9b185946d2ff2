"""Facts about the installation, by name."""

from __future__ import annotations

from sqlalchemy import Connection, select

from ..database.columns import upsert
from ..database.models import Meta

facts = Meta.__table__


def get_many(connection: Connection, *keys: str) -> dict[str, str]:
    """The values of these keys; unset keys are left out."""
    rows = connection.execute(select(facts.c.key, facts.c.value).where(facts.c.key.in_(keys)))
    return {row.key: row.value for row in rows}


def put(connection: Connection, key: str, value: str) -> None:
    statement = upsert(connection, facts).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
