"""Workers' heartbeats, and the steps of dead workers. All times are the database's.

renewal every 5 s · a worker without one kills its steps after 8 s · it is declared dead after 15 s
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, or_, select, update

from ..database.columns import db_now, upsert
from ..database.models import Job, Step, Worker
from ..database.transactions import MAX_TRIES, CommitUnknown, Database
from ..migrations import announced
from .states import RUNNING

workers, steps, jobs = Worker.__table__, Step.__table__, Job.__table__

RENEWAL_SECONDS = 5.0
SELF_KILL_SECONDS = 8.0
DEAD_SECONDS = 15.0


def register(connection: Connection, *, id: str, host: str, pid: int, lanes: Sequence[str], threads: int) -> None:
    """Insert the worker's row; a second call changes nothing."""
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
    """As `register`, in its own transaction, which is retried while its outcome is unknown.

    Raises:
        Unavailable: the database cannot be reached.
        CommitUnknown: the outcome of the last try is unknown too.
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
    """Whether this worker records the entering of irreversible steps; False for an unknown one."""
    found = connection.execute(select(workers.c.records_entry).where(workers.c.id == worker_id)).scalar_one_or_none()
    return bool(found)


def renew(connection: Connection, worker_id: str, busy: int) -> bool:
    """Write the worker's heartbeat; False when it was declared dead, and must end its steps."""
    statement = update(workers).where(workers.c.id == worker_id, workers.c.stopped_at.is_(None))
    return connection.execute(statement.values(heartbeat_at=db_now(), busy=busy)).rowcount > 0


def is_excused(connection: Connection, worker_id: str) -> bool:
    """Whether a running migration prevents heartbeats, and the worker was not declared dead (SQLite only)."""
    if connection.dialect.name != "sqlite" or not announced.is_announced(connection):
        return False
    alive = select(workers.c.id).where(workers.c.id == worker_id, workers.c.stopped_at.is_(None))
    return connection.execute(alive).first() is not None


def stop(connection: Connection, worker_id: str) -> None:
    """Record a graceful stop."""
    connection.execute(update(workers).where(workers.c.id == worker_id).values(stopped_at=db_now(), busy=0))


def declare_dead(connection: Connection) -> list[str]:
    """Mark the workers whose heartbeat is too old; returns their ids, each to one caller only.

    On SQLite, an announced migration that ended without a commit is cleared first, and nothing is declared: it had
    prevented heartbeats.
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
    """Running steps whose worker is stopped or unknown, for `finish_steps.lose`.

    The state decides, not who was just declared dead, so a later run finds what a killed rescuer left.
    """
    orphaned = or_(workers.c.id.is_(None), workers.c.stopped_at.is_not(None))
    statement = select(steps).join(workers, workers.c.id == steps.c.worker_id, isouter=True)
    return connection.execute(statement.where(RUNNING, orphaned).limit(limit)).mappings().all()


def cancelled_steps(connection: Connection, worker_id: str) -> list[str]:
    """The worker's running steps whose job is to be cancelled."""
    statement = select(steps.c.id).join(jobs, jobs.c.id == steps.c.job_id)
    requested = jobs.c.cancel_requested_at.is_not(None)
    return list(connection.execute(statement.where(steps.c.worker_id == worker_id, RUNNING, requested)).scalars())


def live(connection: Connection) -> Sequence[RowMapping]:
    """Workers that are alive, in the order of their starts."""
    alive = [workers.c.stopped_at.is_(None), workers.c.heartbeat_at >= db_now(-DEAD_SECONDS)]
    return connection.execute(select(workers).where(*alive).order_by(workers.c.started_at)).mappings().all()


def running(connection: Connection, worker_ids: Sequence[str]) -> Sequence[RowMapping]:
    """The running steps of these workers."""
    names = ("worker_id", "id", "run_token", "job_id", "account", "lane", "name", "started_at")
    statement = select(*(steps.c[name] for name in names)).where(RUNNING, steps.c.worker_id.in_(worker_ids))
    return connection.execute(statement).mappings().all()
