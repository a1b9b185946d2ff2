"""The database's time on SQLite, where this process reports it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from sqlalchemy import Column, MetaData, Table, insert, select, update

from tenants.database.columns import UtcTime, big_serial, db_now, sqlite_now
from tenants.database.transactions import Database

ROWS = 50
THINGS = Table("things", MetaData(), Column("id", big_serial(), primary_key=True), Column("at", UtcTime()))


def test_a_statement_asks_for_the_time_once_whatever_its_rows(tmp_path: Path) -> None:
    """Each time that SQLite asks, it waits for the GIL, with the only writer lock held."""
    database = Database(f"sqlite:///{tmp_path}/times.db")
    asked: list[float] = []

    def counted(seconds: float) -> str | None:
        asked.append(seconds)
        return sqlite_now(seconds)

    with database.engine.begin() as connection:
        THINGS.metadata.create_all(connection)
        connection.execute(insert(THINGS), [{"at": None}] * ROWS)
        connection.connection.driver_connection.create_function("onelane_now", 1, counted)  # type: ignore[union-attr]
        connection.execute(update(THINGS).values(at=db_now()))
        assert asked == [0]
        found = connection.execute(select(THINGS.c.at).where(THINGS.c.at < db_now(60.0))).scalars().all()
        assert asked == [0, 60]
        assert len(found) == ROWS
        assert len(set(found)) == 1
        later = connection.execute(select(db_now(60.0 * THINGS.c.id)).order_by(THINGS.c.id)).scalars().all()
        assert all(b - a > timedelta(seconds=59) for a, b in pairwise(later)), "of a column it is each row's own"
    database.close()
    assert abs((found[0] - datetime.now(UTC)).total_seconds()) < 60
