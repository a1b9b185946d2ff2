"""Dead letters: steps that are not retried automatically any further, and messages that belong to no job.

A letter is open until it is replayed or discarded. The jobs and steps have all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select, update

from ...database.columns import db_now
from ...database.models import Attempt, DeadLetter
from ...errors import NotFound
from ..listings import Page, fetch_one, narrow, read_page

letters, attempts = DeadLetter.__table__, Attempt.__table__

_SUMMARY = [column for column in letters.c if column.name != "message"]


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters; None matches all."""

    account: str | None = None
    lane: str | None = None
    pipeline: str | None = None
    error_code: str | None = None
    #: Leaves out letters whose step may have taken effect, unless `error_code` selects them.
    only_known_outcomes: bool = False


def _open(statement: Select[Any], chosen: LetterFilter) -> Select[Any]:
    statement = statement.where(letters.c.resolution.is_(None))
    if chosen.only_known_outcomes and chosen.error_code is None:
        statement = statement.where(letters.c.error_code != "outcome_unknown")
    names = ("account", "lane", "pipeline", "error_code")
    return narrow(statement, *((letters.c[name], getattr(chosen, name)) for name in names))


def page(connection: Connection, chosen: LetterFilter, *, limit: int, cursor: str | None) -> Page:
    """Open letters without their messages, newest first."""
    return read_page(connection, _open(select(*_SUMMARY), chosen), letters.c.seq, limit=limit, cursor=cursor)


def fetch(connection: Connection, letter_id: str) -> RowMapping:
    """One letter, whole, open or not.

    Raises:
        NotFound: there is no such letter.
    """
    statement = select(letters).where(letters.c.id == letter_id)
    return fetch_one(connection, statement, f"there is no dead letter {letter_id!r}")


def tries(connection: Connection, step_id: str | None) -> Sequence[RowMapping]:
    """The attempts of a letter's step, in order."""
    if step_id is None:
        return []
    statement = select(attempts).where(attempts.c.step_id == step_id).order_by(attempts.c.run_token)
    return connection.execute(statement).mappings().all()


def count(connection: Connection, chosen: LetterFilter) -> int:
    return int(connection.execute(_open(select(func.count()).select_from(letters), chosen)).scalar_one())


def heads(connection: Connection, chosen: LetterFilter, *, limit: int) -> Sequence[RowMapping]:
    """`id` and `job_id` of open letters, oldest first."""
    statement = _open(select(letters.c.id, letters.c.job_id), chosen).order_by(letters.c.seq).limit(limit)
    return connection.execute(statement).mappings().all()


def resolve(connection: Connection, letter_id: str, resolution: str) -> RowMapping:
    """Mark an open letter as replayed or discarded; of several callers one succeeds.

    Raises:
        NotFound: there is no open letter of that id.
    """
    statement = update(letters).where(letters.c.id == letter_id, letters.c.resolution.is_(None))
    resolved = statement.values(resolution=resolution, resolved_at=db_now()).returning(letters)
    found = connection.execute(resolved).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no open dead letter {letter_id!r}")
    return found


def resolve_job(connection: Connection, job_id: str, resolution: str) -> int:
    """Mark all open letters of a job that was resumed or given up; returns how many there were."""
    statement = update(letters).where(letters.c.job_id == job_id, letters.c.resolution.is_(None))
    return connection.execute(statement.values(resolution=resolution, resolved_at=db_now())).rowcount
