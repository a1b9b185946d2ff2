"""Removal of what is old, a few rows at a time, so that no statement holds many rows or lasts long.

Kept per account: the newest ended jobs, so many completed and so many that failed, and whatever is younger than a
grace. A job that has an open dead letter or a publication whose outcome is unknown stays, whatever its age.

Invariants
- What may go is looked for without holding anything: the look goes over many rows, and on SQLite nobody could write
  meanwhile. Only its result is written, in small transactions that last some milliseconds.
- A job goes only if it has ended and is needed by nobody at the moment at which its row is held. One that was let go
  on since the look (`:retry`, a replay) stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select

from ..columns import db_now
from ..database import Database
from ..models import (
    Artifact,
    DeadLetter,
    Draft,
    Event,
    IdempotencyKey,
    Job,
    Publication,
    Step,
    Worker,
)
from . import usage, webhook_deliveries

jobs, steps, events = Job.__table__, Step.__table__, Event.__table__
drafts, publications, dead_letters = Draft.__table__, Publication.__table__, DeadLetter.__table__
artifacts, workers, idempotency_keys = Artifact.__table__, Worker.__table__, IdempotencyKey.__table__

#: Rows of one job may be many (each call of `ctx.log` is an event): those go first, so many at a time.
ROWS_AT_ONCE = 2000
_ACCOUNTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept. Ages in seconds; counts per account."""

    completed: int = 100
    failed: int = 50
    #: Ended jobs younger than this stay, whatever their number.
    grace: float = 24 * 3600.0
    #: Ended jobs older than this go, whatever their number; None: the numbers alone decide.
    max_age: float | None = 90 * 24 * 3600.0
    events: float = 7 * 24 * 3600.0
    idempotency_keys: float = 24 * 3600.0
    workers: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """Jobs that were removed, and the files of theirs that are to be removed now."""

    jobs: int
    paths: tuple[str, ...]


def candidates(database: Database, retention: Retention, *, limit: int) -> list[str]:
    """Up to `limit` ended jobs beyond what is kept, as it is now; `remove` looks again at each."""
    found: dict[str, None] = {}
    for ids in _looks(database, retention, limit):
        found.update(dict.fromkeys(ids))
        if len(found) >= limit:
            break
    return list(found)[:limit]


def remove(database: Database, ids: Sequence[str]) -> Pruned:
    """Remove those of these jobs that have ended and are not needed, with everything that hangs on them.

    The deliveries of their webhooks go with them, and count.
    """
    while database.write(lambda connection: _thin_out(connection, _held(connection, ids))):
        continue
    return database.write(lambda connection: _remove(connection, _held(connection, ids)))


def _held(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Those that may go, held against whoever lets one go on; without those that somebody else holds."""
    statement = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.finished_at.is_not(None), ~_needed())
    return list(connection.execute(statement.with_for_update(skip_locked=True)).scalars())


def _thin_out(connection: Connection, ids: Sequence[str]) -> bool:
    """Remove events of the jobs while they have very many; False when what is left goes with the jobs."""
    some = select(events.c.seq).where(events.c.job_id.in_(ids)).limit(ROWS_AT_ONCE)
    numbers = connection.execute(some).scalars().all()
    if len(numbers) < ROWS_AT_ONCE:
        return False
    connection.execute(delete(events).where(events.c.seq.in_(numbers)))
    return True


def _remove(connection: Connection, ids: list[str]) -> Pruned:
    if not ids:
        return Pruned(0, ())
    ids += webhook_deliveries.ids_of(connection, ids)
    paths = tuple(connection.execute(select(artifacts.c.path).where(artifacts.c.job_id.in_(ids))).scalars())
    usage.remove_attempts(connection, ids)
    for table in (artifacts, events, publications, drafts, dead_letters, steps):
        connection.execute(delete(table).where(table.c.job_id.in_(ids)))
    removed = connection.execute(delete(jobs).where(jobs.c.id.in_(ids))).rowcount
    return Pruned(removed, paths)


def _needed() -> ColumnElement[bool]:
    """What a person still has to decide about."""
    letter = select(1).where(dead_letters.c.job_id == jobs.c.id, dead_letters.c.resolution.is_(None))
    unsure = select(1).where(publications.c.job_id == jobs.c.id, publications.c.status.in_(("started", "unknown")))
    return or_(letter.exists(), unsure.exists(), webhook_deliveries.is_open())


def _own() -> ColumnElement[bool]:
    """Jobs that somebody made; a webhook's delivery goes with the job whose end it tells."""
    return jobs.c.ended_job_id.is_(None)


def _looks(database: Database, retention: Retention, limit: int) -> Iterator[Sequence[str]]:
    """Looks for jobs to remove, each a short transaction that only reads."""
    if retention.max_age is not None:
        age = retention.max_age
        yield database.read(lambda connection: _too_old(connection, age, limit))
    for of_kind, kept in (
        (jobs.c.status == "completed", retention.completed),
        (jobs.c.status != "completed", retention.failed),
    ):
        ended = and_(jobs.c.finished_at.is_not(None), of_kind, _own())
        after, grace = "", retention.grace
        while names := database.read(partial(_crowded, ended=ended, kept=kept, grace=grace, after=after)):
            for name in names:
                yield database.read(partial(_beyond, ended=ended, kept=kept, grace=grace, account=name, limit=limit))
            after = names[-1]


def _crowded(connection: Connection, ended: ColumnElement[bool], kept: int, grace: float, after: str) -> Sequence[str]:
    """The next accounts that have more ended jobs than are kept, at least one of them older than the grace."""
    statement = (
        select(jobs.c.account)
        .where(ended, jobs.c.account > after)
        .group_by(jobs.c.account)
        .having(func.count() > kept, func.min(jobs.c.finished_at) < db_now(-grace))
        .order_by(jobs.c.account)
        .limit(_ACCOUNTS_AT_ONCE)
    )
    return connection.execute(statement).scalars().all()


def _beyond(
    connection: Connection, *, ended: ColumnElement[bool], kept: int, grace: float, account: str, limit: int
) -> Sequence[str]:
    """An account's ended jobs with more than the kept number of newer ones of their kind, oldest first."""
    mine = and_(jobs.c.account == account, ended)
    oldest_kept = select(jobs.c.seq).where(mine).order_by(jobs.c.seq.desc()).offset(kept).limit(1).scalar_subquery()
    statement = (
        select(jobs.c.id)
        .where(mine, jobs.c.seq <= oldest_kept, jobs.c.finished_at < db_now(-grace), ~_needed())
        .order_by(jobs.c.seq)
        .limit(limit)
    )
    return connection.execute(statement).scalars().all()


def _too_old(connection: Connection, max_age: float, limit: int) -> Sequence[str]:
    statement = (
        select(jobs.c.id)
        .where(jobs.c.finished_at < db_now(-max_age), _own(), ~_needed())
        .order_by(jobs.c.finished_at)
        .limit(limit)
    )
    return connection.execute(statement).scalars().all()


def prune_rest(database: Database, retention: Retention, *, limit: int) -> int:
    """Remove up to `limit` rows each of old events, idempotency keys and stopped workers; gives back how many."""
    keys = idempotency_keys.c
    # Of the events the first are the oldest: there is no index on their time, which each of them would pay for.
    first = select(events.c.seq, events.c.created_at).order_by(events.c.seq).limit(limit).subquery()
    return (
        _remove_rows(database, events.c.seq, select(first.c.seq).where(first.c.created_at < db_now(-retention.events)))
        + _remove_rows(
            database,
            keys.scope,
            select(keys.scope)
            .where(keys.created_at < db_now(-retention.idempotency_keys))
            .order_by(keys.created_at)
            .limit(limit),
        )
        + _remove_rows(
            database,
            workers.c.id,
            select(workers.c.id).where(workers.c.stopped_at < db_now(-retention.workers)).limit(limit),
        )
    )


def _remove_rows(database: Database, key: Any, old: Any) -> int:
    """Remove what a look finds; rows that are old stay so, and nobody else writes them."""
    ids = database.read(lambda connection: connection.execute(old).scalars().all())
    if not ids:
        return 0
    table: Table = key.table
    return database.write(lambda connection: connection.execute(delete(table).where(key.in_(ids))).rowcount)
