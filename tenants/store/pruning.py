"""Removal of what is old, a few rows at a time, so that no statement holds many rows or lasts long.

Kept per account: the newest ended jobs, so many completed and so many that failed, and whatever is younger than a
grace. A job that has an open dead letter or a publication whose outcome is unknown stays, whatever its age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select

from ..columns import db_now
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
from . import deliveries, usage

jobs, steps, events = Job.__table__, Step.__table__, Event.__table__
drafts, publications, dead_letters = Draft.__table__, Publication.__table__, DeadLetter.__table__
artifacts, workers, idempotency_keys = Artifact.__table__, Worker.__table__, IdempotencyKey.__table__


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


def prune_jobs(connection: Connection, retention: Retention, *, limit: int) -> Pruned:
    """Remove up to `limit` ended jobs beyond what is kept, with everything that hangs on them.

    The deliveries of their webhooks go with them, and count.
    """
    ids = _beyond_the_numbers(connection, retention, limit)
    if retention.max_age is not None and len(ids) < limit:
        ids = list({*ids, *_too_old(connection, retention.max_age, limit - len(ids))})
    if not ids:
        return Pruned(0, ())
    ids += deliveries.ids_of(connection, ids)
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
    return or_(letter.exists(), unsure.exists(), deliveries.is_open())


def _own() -> ColumnElement[bool]:
    """Jobs that somebody made; a webhook's delivery goes with the job whose end it tells."""
    return jobs.c.ended_job_id.is_(None)


def _beyond_the_numbers(connection: Connection, retention: Retention, limit: int) -> list[str]:
    """Ended jobs with more than the kept number of newer ones of their kind in their account."""
    found: list[str] = []
    kinds = ((jobs.c.status == "completed", retention.completed), (jobs.c.status != "completed", retention.failed))
    for of_kind, kept in kinds:
        accounts = connection.execute(
            select(jobs.c.account)
            .where(jobs.c.finished_at.is_not(None), of_kind, _own())
            .group_by(jobs.c.account)
            .having(func.count() > kept)
            .limit(limit)
        ).scalars()
        for account in accounts.all():
            mine = and_(jobs.c.account == account, jobs.c.finished_at.is_not(None), of_kind, _own())
            oldest_kept = (
                select(jobs.c.seq).where(mine).order_by(jobs.c.seq.desc()).offset(kept).limit(1).scalar_subquery()
            )
            rows = connection.execute(
                select(jobs.c.id)
                .where(mine, jobs.c.seq <= oldest_kept, jobs.c.finished_at < db_now(-retention.grace), ~_needed())
                .order_by(jobs.c.seq)
                .limit(limit - len(found))
            )
            found += rows.scalars()
            if len(found) >= limit:
                return found
    return found


def _too_old(connection: Connection, max_age: float, limit: int) -> Sequence[str]:
    return (
        connection.execute(
            select(jobs.c.id)
            .where(jobs.c.finished_at < db_now(-max_age), _own(), ~_needed())
            .order_by(jobs.c.finished_at)
            .limit(limit)
        )
        .scalars()
        .all()
    )


def prune_rest(connection: Connection, retention: Retention, *, limit: int) -> int:
    """Remove up to `limit` rows each of old events, idempotency keys and stopped workers; gives back how many."""
    return (
        _oldest(connection, events, events.c.seq, events.c.created_at < db_now(-retention.events), limit)
        + _oldest(
            connection,
            idempotency_keys,
            idempotency_keys.c.scope,
            idempotency_keys.c.created_at < db_now(-retention.idempotency_keys),
            limit,
        )
        + _oldest(connection, workers, workers.c.id, workers.c.stopped_at < db_now(-retention.workers), limit)
    )


def _oldest(
    connection: Connection, table: Table, key: ColumnElement[object], old: ColumnElement[bool], limit: int
) -> int:
    ids = connection.execute(select(key).where(old).order_by(key).limit(limit)).scalars().all()
    return connection.execute(delete(table).where(key.in_(ids))).rowcount if ids else 0
