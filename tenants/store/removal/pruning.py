"""Removal of old rows in small batches, so that no statement locks many rows or takes long.

Kept per account: the newest ended jobs (a number of completed and a number of failed ones), and all that are younger
than the grace. A job with an open dead letter or a publication of unknown outcome is kept at any age.

Invariants
- Candidates are searched in reads without locks: they scan many rows, and a write transaction would block all others
  on SQLite. Only the removals are writes, of some milliseconds each.
- A job is removed only if it has ended and is not needed while its row is locked. One that was resumed since the search
  (`:retry`, a replay) stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select

from ...database.columns import db_now
from ...database.models import Artifact, DeadLetter, Event, IdempotencyKey, Job, Publication, Worker
from ...database.transactions import Database
from ..accounts import usage
from ..jobs import webhook_deliveries
from . import holdings

jobs, events = Job.__table__, Event.__table__
publications, dead_letters = Publication.__table__, DeadLetter.__table__
artifacts, workers, idempotency_keys = Artifact.__table__, Worker.__table__, IdempotencyKey.__table__

#: A job may have very many events (each call of `ctx.log` is one): they are removed first, so many at a time.
ROWS_AT_ONCE = 2000
ACCOUNTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: ages in seconds, counts per account."""

    completed: int = 100
    failed: int = 50
    #: Ended jobs younger than this stay, however many.
    grace: float = 24 * 3600.0
    #: Ended jobs older than this are removed, however few; None: only the counts decide.
    max_age: float | None = 90 * 24 * 3600.0
    events: float = 7 * 24 * 3600.0
    idempotency_keys: float = 24 * 3600.0
    workers: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """The number of removed jobs, and the files that the caller removes now."""

    jobs: int
    paths: tuple[str, ...]


def candidates(database: Database, retention: Retention, *, limit: int) -> list[str]:
    """Up to `limit` ended jobs beyond what is kept; `remove` checks each again."""
    found: dict[str, None] = {}
    for ids in _searches(database, retention, limit):
        found.update(dict.fromkeys(ids))
        if len(found) >= limit:
            break
    return list(found)[:limit]


def remove(database: Database, ids: Sequence[str]) -> Pruned:
    """Remove those of these jobs that have ended and are not needed, with their rows and webhook deliveries.

    The deliveries are counted too.
    """
    while database.write(lambda connection: _remove_many_events(connection, _lock_removable(connection, ids))):
        continue
    return database.write(lambda connection: _remove(connection, _lock_removable(connection, ids)))


def _lock_removable(connection: Connection, ids: Sequence[str]) -> list[str]:
    """The jobs that may be removed, locked so that none is resumed; without those that another transaction locks."""
    statement = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.finished_at.is_not(None), ~_needed())
    return list(connection.execute(statement.with_for_update(skip_locked=True)).scalars())


def _remove_many_events(connection: Connection, ids: Sequence[str]) -> bool:
    """Remove a batch of the jobs' events; False when fewer are left, which `_remove` removes with the jobs."""
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
    return Pruned(holdings.remove_jobs(connection, ids)["jobs"], paths)


def _needed() -> ColumnElement[bool]:
    """Whether a person still has to decide about the job."""
    letter = select(1).where(dead_letters.c.job_id == jobs.c.id, dead_letters.c.resolution.is_(None))
    unsure = select(1).where(publications.c.job_id == jobs.c.id, publications.c.status.in_(("started", "unknown")))
    return or_(letter.exists(), unsure.exists(), webhook_deliveries.is_open())


def _is_no_delivery() -> ColumnElement[bool]:
    """Not a webhook delivery, which is removed with the job whose end it reports."""
    return jobs.c.ended_job_id.is_(None)


def _searches(database: Database, retention: Retention, limit: int) -> Iterator[Sequence[str]]:
    """Ids of jobs to remove, from several short reads."""
    if retention.max_age is not None:
        age = retention.max_age
        yield database.read(lambda connection: _too_old(connection, age, limit))
    for of_kind, kept in (
        (jobs.c.status == "completed", retention.completed),
        (jobs.c.status != "completed", retention.failed),
    ):
        ended = and_(jobs.c.finished_at.is_not(None), of_kind, _is_no_delivery())
        after, grace = "", retention.grace
        while names := database.read(partial(_accounts_with_surplus, ended=ended, kept=kept, grace=grace, after=after)):
            for name in names:
                yield database.read(partial(surplus, ended=ended, kept=kept, grace=grace, account=name, limit=limit))
            after = names[-1]


def _accounts_with_surplus(
    connection: Connection, ended: ColumnElement[bool], kept: int, grace: float, after: str
) -> Sequence[str]:
    """The next accounts with more ended jobs than are kept, at least one of them older than the grace."""
    statement = (
        select(jobs.c.account)
        .where(ended, jobs.c.account > after)
        .group_by(jobs.c.account)
        .having(func.count() > kept, func.min(jobs.c.finished_at) < db_now(-grace))
        .order_by(jobs.c.account)
        .limit(ACCOUNTS_AT_ONCE)
    )
    return connection.execute(statement).scalars().all()


def surplus(
    connection: Connection, *, ended: ColumnElement[bool], kept: int, grace: float, account: str, limit: int
) -> Sequence[str]:
    """An account's ended jobs beyond the kept number of newer ones of their kind, oldest first."""
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
        .where(jobs.c.finished_at < db_now(-max_age), _is_no_delivery(), ~_needed())
        .order_by(jobs.c.finished_at)
        .limit(limit)
    )
    return connection.execute(statement).scalars().all()


def prune_rest(database: Database, retention: Retention, *, limit: int) -> int:
    """Remove up to `limit` rows each of old events, idempotency keys and stopped workers; returns how many."""
    # The first events are the oldest. An index on their time would slow down every insert.
    first = select(events.c.seq, events.c.created_at).order_by(events.c.seq).limit(limit).subquery()
    old_events = select(first.c.seq).where(first.c.created_at < db_now(-retention.events))
    keys = idempotency_keys.c
    old_keys = select(keys.scope).where(keys.created_at < db_now(-retention.idempotency_keys))
    old_workers = select(workers.c.id).where(workers.c.stopped_at < db_now(-retention.workers))
    return (
        _remove_rows(database, events.c.seq, old_events)
        + _remove_rows(database, keys.scope, old_keys.order_by(keys.created_at).limit(limit))
        + _remove_rows(database, workers.c.id, old_workers.limit(limit))
    )


def _remove_rows(database: Database, key: Any, old: Any) -> int:
    """Remove the rows that a read finds; an old row stays old, so it is not checked again."""
    ids = database.read(lambda connection: connection.execute(old).scalars().all())
    if not ids:
        return 0
    table: Table = key.table
    return database.write(lambda connection: connection.execute(delete(table).where(key.in_(ids))).rowcount)
