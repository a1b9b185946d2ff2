"""A long migration on SQLite, during which nobody else can write: it is announced, so that workers live through it.

A worker renews its liveness by a write every 5 s, and ends itself after 8 s without one; whom 15 s have passed for is
declared dead. While a migration holds SQLite's only write lock nobody can renew, and nobody can declare anyone dead
either. So the announcement, a row that was committed before, counts for a worker that can read it as a renewal.

Invariant: whoever takes the announcement away sets, in the same transaction, the liveness of all workers to that
moment. So a worker that has read it has at least 15 s from then on, as after a renewal of its own. It is taken away by
the migration's commit; where the migration failed or was killed, by the first rescuer that can write again.

Only tables of the first schema are used, since the announcement is made before the migration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, inspect, text

from ..database.columns import SQLITE_TIME_FORMAT

#: The key in `meta`.
KEY = "migrating"
#: A rescuer may take the announcement away before the migration begins; so often it is made again.
_MAX_TRIES = 100
#: As `store.workers` has it: whoever was silent for longer before the migration stays dead.
_DEAD_SECONDS = 15.0


class NeverAlone(Exception):
    """The announcement was taken away again and again before the migration could begin."""


def run(engine: Engine, migrate: Callable[[Connection], None]) -> None:
    """Run `migrate` in one transaction, on SQLite announced to the workers.

    Raises:
        NeverAlone: see there.
    """
    if engine.dialect.name != "sqlite" or not _has_workers(engine):
        with engine.begin() as connection:
            migrate(connection)
        return
    for _ in range(_MAX_TRIES):
        with engine.begin() as connection:
            connection.execute(text("INSERT OR REPLACE INTO meta (key, value) VALUES (:key, '1')"), {"key": KEY})
        with engine.begin() as connection:
            if not is_announced(connection):
                continue
            living = _living(connection)
            migrate(connection)
            end(connection, living)
            return
    raise NeverAlone("the migration could not announce itself to the workers; stop them, and run it again")


def is_announced(connection: Connection) -> bool:
    row = connection.execute(text("SELECT 1 FROM meta WHERE key = :key"), {"key": KEY}).first()
    return row is not None


def end(connection: Connection, living: list[str] | None = None) -> None:
    """Take the announcement away, and count this moment as the renewal of the workers (None: of all that run)."""
    if living is None:
        living = [row.id for row in connection.execute(text("SELECT id FROM workers WHERE stopped_at IS NULL"))]
    for worker_id in living:
        connection.execute(
            text("UPDATE workers SET heartbeat_at = :now WHERE id = :id AND stopped_at IS NULL"),
            {"now": _time(0), "id": worker_id},
        )
    connection.execute(text("DELETE FROM meta WHERE key = :key"), {"key": KEY})


def _living(connection: Connection) -> list[str]:
    query = "SELECT id FROM workers WHERE stopped_at IS NULL AND heartbeat_at >= :since"
    return [row.id for row in connection.execute(text(query), {"since": _time(-_DEAD_SECONDS)})]


def _has_workers(engine: Engine) -> bool:
    with engine.connect() as connection, contextlib.closing(connection):
        return {"meta", "workers"} <= set(inspect(connection).get_table_names())


def _time(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime(SQLITE_TIME_FORMAT)
