"""Dead letters: steps that will not be tried again by themselves, and messages that belong to no job.

A letter stays until it is replayed or discarded; its step's job tells the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select, update

from ..columns import db_now
from ..errors import NotFound
from ..models import Attempt, DeadLetter
from .listings import Page, newest_first

letters, attempts = DeadLetter.__table__, Attempt.__table__

#: What a list leaves out.
_HEAVY = ("message",)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters; None does not narrow."""

    account: str | None = None
    lane: str | None = None
    pipeline: str | None = None
    error_code: str | None = None
    #: Leaves those out whose step may have taken effect, unless their code is asked for.
    only_known_outcomes: bool = False


def _conditions(chosen: LetterFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [letters.c.resolution.is_(None)]
    if chosen.only_known_outcomes and chosen.error_code is None:
        conditions.append(letters.c.error_code != "outcome_unknown")
    for column in (letters.c.account, letters.c.lane, letters.c.pipeline, letters.c.error_code):
        value = getattr(chosen, column.name)
        if value is not None:
            conditions.append(column == value)
    return conditions


def page(connection: Connection, chosen: LetterFilter, *, limit: int, cursor: str | None) -> Page:
    """Open letters without their messages, newest first."""
    shown = [column for column in letters.c if column.name not in _HEAVY]
    return newest_first(
        connection, select(*shown).where(*_conditions(chosen)), letters.c.seq, limit=limit, cursor=cursor
    )


def fetch(connection: Connection, letter_id: str) -> RowMapping:
    """One letter, whole, open or not.

    Raises:
        NotFound: there is no such letter.
    """
    found = connection.execute(select(letters).where(letters.c.id == letter_id)).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no dead letter {letter_id!r}")
    return found


def tries(connection: Connection, step_id: str | None) -> Sequence[RowMapping]:
    """The attempts of a letter's step, in order."""
    if step_id is None:
        return []
    statement = select(attempts).where(attempts.c.step_id == step_id).order_by(attempts.c.run_token)
    return connection.execute(statement).mappings().all()


def count(connection: Connection, chosen: LetterFilter) -> int:
    return connection.execute(select(func.count()).select_from(letters).where(*_conditions(chosen))).scalar_one()


def heads(connection: Connection, chosen: LetterFilter, *, limit: int) -> Sequence[RowMapping]:
    """`id` and `job_id` of open letters that fit, the oldest first."""
    statement = select(letters.c.id, letters.c.job_id).where(*_conditions(chosen)).order_by(letters.c.seq).limit(limit)
    return connection.execute(statement).mappings().all()


def resolve(connection: Connection, letter_id: str, resolution: str) -> RowMapping:
    """Mark an open letter as replayed or discarded; one caller alone succeeds.

    Raises:
        NotFound: there is no such letter, or it is open no more.
    """
    found = (
        connection.execute(
            update(letters)
            .where(letters.c.id == letter_id, letters.c.resolution.is_(None))
            .values(resolution=resolution, resolved_at=db_now())
            .returning(letters)
        )
        .mappings()
        .one_or_none()
    )
    if found is None:
        raise NotFound(f"there is no open dead letter {letter_id!r}")
    return found


def resolve_job(connection: Connection, job_id: str, resolution: str) -> int:
    """Mark all open letters of a job, because it goes on or was given up; how many there were."""
    return connection.execute(
        update(letters)
        .where(letters.c.job_id == job_id, letters.c.resolution.is_(None))
        .values(resolution=resolution, resolved_at=db_now())
    ).rowcount
