"""Workers' liveness, and what to do for the dead: all times the database's.

renewal every 5 s · own steps ended after 8 s without one · declared dead at 15 s
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, and_, or_, select, update

from ..columns import db_now, upsert
from ..database import MAX_TRIES, CommitUnknown, Database
from ..migrations import announced
from ..models import Job, Step, Worker
from .states import RUNNING

workers, steps, jobs = Worker.__table__, Step.__table__, Job.__table__

RENEWAL_SECONDS = 5.0
SELF_KILL_SECONDS = 8.0
DEAD_SECONDS = 15.0


def register(connection: Connection, *, id: str, host: str, pid: int, lanes: Sequence[str], threads: int) -> None:
    """Note a worker that begins; once more, it changes nothing."""
    statement = upsert(connection, workers).values(
        id=id,
        host=host,
        pid=pid,
        lanes=list(lanes),
        threads=threads,
        busy=0,
        records_entry=True,
        started_at=db_now(),
        heartbeat_at=db_now(),
    )
    connection.execute(statement.on_conflict_do_nothing())


def register_surely(database: Database, *, id: str, host: str, pid: int, lanes: Sequence[str], threads: int) -> None:
    """As `register`, by itself; where the answer to its commit was lost, again.

    Raises:
        Unavailable: the database cannot be reached.
        CommitUnknown: one answer after the other was lost.
    """
    for tries in range(1, MAX_TRIES + 1):
        try:
            return database.write(
                lambda connection: register(connection, id=id, host=host, pid=pid, lanes=lanes, threads=threads)
            )
        except CommitUnknown:
            if tries == MAX_TRIES:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def records_entry(connection: Connection, worker_id: str | None) -> bool:
    """Whether this worker records the entering of irreversible steps; one that is not known counts as not."""
    found = connection.execute(select(workers.c.records_entry).where(workers.c.id == worker_id)).scalar_one_or_none()
    return bool(found)


def renew(connection: Connection, worker_id: str, busy: int) -> bool:
    """Renew the worker's liveness; False when it was declared dead, and must end its steps."""
    changed = connection.execute(
        update(workers)
        .where(workers.c.id == worker_id, workers.c.stopped_at.is_(None))
        .values(heartbeat_at=db_now(), busy=busy)
    )
    return changed.rowcount > 0


def is_excused(connection: Connection, worker_id: str) -> bool:
    """Whether a migration keeps the worker from renewing its liveness, which counts as a renewal (SQLite alone)."""
    if connection.dialect.name != "sqlite" or not announced.is_announced(connection):
        return False
    alive = select(workers.c.id).where(workers.c.id == worker_id, workers.c.stopped_at.is_(None))
    return connection.execute(alive).first() is not None


def stop(connection: Connection, worker_id: str) -> None:
    """Note an orderly stop."""
    connection.execute(update(workers).where(workers.c.id == worker_id).values(stopped_at=db_now(), busy=0))


def declare_dead(connection: Connection) -> list[str]:
    """Mark the workers that have been silent for too long; gives back their ids, each to one caller only.

    On SQLite, a migration that was announced and ended without a commit is taken note of first: it gave them time.
    """
    if connection.dialect.name == "sqlite" and announced.is_announced(connection):
        announced.end(connection)
        return []
    rows = connection.execute(
        update(workers)
        .where(workers.c.stopped_at.is_(None), workers.c.heartbeat_at < db_now(-DEAD_SECONDS))
        .values(stopped_at=db_now(), busy=0)
        .returning(workers.c.id)
    )
    return [row.id for row in rows]


def abandoned_steps(connection: Connection, *, limit: int = 500) -> Sequence[RowMapping]:
    """Running steps whose worker is stopped or unknown. A caller takes each with `outcomes.lose`.

    It asks for the state, not for who just died, so that a rescuer that was killed half-way leaves nothing behind.
    """
    return (
        connection.execute(
            select(steps)
            .join(workers, workers.c.id == steps.c.worker_id, isouter=True)
            .where(RUNNING, or_(workers.c.id.is_(None), workers.c.stopped_at.is_not(None)))
            .limit(limit)
        )
        .mappings()
        .all()
    )


def cancelled_steps(connection: Connection, worker_id: str) -> list[str]:
    """The worker's running steps whose job somebody wants cancelled."""
    rows = connection.execute(
        select(steps.c.id)
        .join(jobs, jobs.c.id == steps.c.job_id)
        .where(and_(steps.c.worker_id == worker_id, RUNNING, jobs.c.cancel_requested_at.is_not(None)))
    )
    return [row.id for row in rows]


def live(connection: Connection) -> Sequence[RowMapping]:
    """Workers that run, and how long ago each was heard."""
    return (
        connection.execute(
            select(workers)
            .where(workers.c.stopped_at.is_(None), workers.c.heartbeat_at >= db_now(-DEAD_SECONDS))
            .order_by(workers.c.started_at)
        )
        .mappings()
        .all()
    )


def running(connection: Connection, worker_ids: Sequence[str]) -> Sequence[RowMapping]:
    """What these workers run now."""
    return (
        connection.execute(
            select(
                steps.c.worker_id,
                steps.c.id,
                steps.c.run_token,
                steps.c.job_id,
                steps.c.account,
                steps.c.lane,
                steps.c.name,
                steps.c.started_at,
            ).where(RUNNING, steps.c.worker_id.in_(worker_ids))
        )
        .mappings()
        .all()
    )
