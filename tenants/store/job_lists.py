"""Lists of jobs, newest first: each filter by an index, so that a page costs the same among a million jobs.

Invariants
- A page is read in the order of an index and ends with its limit; nothing is sorted that grows with the table.
  (`tests/store/test_lists.py` looks at the plans.)
- Tags are looked up in `job_tags`, which both databases can search by tag and by its beginning.
- `created_at` has no index: each change of a job would write into it too. It grows with `seq` but for transactions that
  crossed, so a range of times is first turned into a range of numbers, by halving.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, union

from ..models import Job, JobTag
from .jobs import SUMMARY
from .listings import Page, after_prefix, decode_place, newest_first

jobs, tags = Job.__table__, JobTag.__table__

#: No transaction that makes jobs takes as long, and no database's clock is set back by as much.
_CROSSING = timedelta(minutes=10)
_LEAST_ID, _GREATEST_ID = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What `page` selects by; `q` is a prefix of the id, a tag or the unique key."""

    account: str | None = None
    status: str | None = None
    pipeline: str | None = None
    tag: str | None = None
    q: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    #: Also deliveries of webhooks, which nobody made.
    deliveries: bool = False


def page(connection: Connection, chosen: JobFilter, *, limit: int, cursor: str | None) -> Page:
    """Summaries, newest first.

    Raises:
        InvalidInput: the cursor is not one of ours.
    """
    conditions = _conditions(connection, chosen)
    if chosen.q is None:
        return newest_first(
            connection, _tagged(select(*SUMMARY), chosen, conditions), jobs.c.seq, limit=limit, cursor=cursor
        )
    if cursor is not None:
        conditions.append(jobs.c.seq < decode_place(cursor, int))
    # One condition with three ways to be true has no index; each way by itself has one.
    ways = [
        _tagged(select(jobs.c.seq), chosen, [*conditions, way]).order_by(jobs.c.seq.desc()).limit(limit + 1).subquery()
        for way in _beginnings(chosen.q)
    ]
    newest = union(*(select(way.c.seq) for way in ways)).subquery()
    statement = select(*SUMMARY).where(jobs.c.seq.in_(select(newest.c.seq)))
    return newest_first(connection, statement, jobs.c.seq, limit=limit, cursor=None)


def _tagged(statement: Select[Any], chosen: JobFilter, conditions: list[ColumnElement[bool]]) -> Select[Any]:
    if chosen.tag is not None:
        statement = statement.join(tags, and_(tags.c.job_seq == jobs.c.seq, tags.c.tag == chosen.tag))
    return statement.where(*conditions)


def _conditions(connection: Connection, chosen: JobFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if not chosen.deliveries:
        conditions.append(jobs.c.ended_job_id.is_(None))
    for column in (jobs.c.account, jobs.c.status, jobs.c.pipeline):
        value = getattr(chosen, column.name)
        if value is not None:
            conditions.append(column == value)
    if chosen.created_after is not None:
        conditions.append(jobs.c.created_at > chosen.created_after)
        conditions.append(jobs.c.seq >= _first_made_at(connection, chosen.created_after, -_CROSSING))
    if chosen.created_before is not None:
        conditions.append(jobs.c.created_at < chosen.created_before)
        conditions.append(jobs.c.seq < _first_made_at(connection, chosen.created_before, _CROSSING))
    return conditions


def _first_made_at(connection: Connection, moment: datetime, more: timedelta) -> int:
    """About the number of the first job made at that time or later: jobs far from it on either side are told apart."""
    with contextlib.suppress(OverflowError):  # the first or the last time there is
        moment += more
    low, high = 0, (connection.execute(select(func.max(jobs.c.seq))).scalar() or 0) + 1
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(
            select(jobs.c.seq, jobs.c.created_at).where(jobs.c.seq >= middle).order_by(jobs.c.seq).limit(1)
        ).one_or_none()
        if found is None or found.created_at >= moment:
            high = middle
        else:
            low = found.seq + 1
    return low


def _beginnings(prefix: str) -> list[ColumnElement[bool]]:
    """The ways in which a job can begin with this text: by its id, its unique key, or a tag."""
    tagged = select(tags.c.job_seq).where(_begins(tags.c.tag, prefix))
    ways = [and_(jobs.c.unique_key.is_not(None), _begins(jobs.c.unique_key, prefix)), jobs.c.seq.in_(tagged)]
    if _could_begin_an_id(prefix):
        # Whole ids of one form compare alike in every locale; a mere beginning would not.
        least, greatest = (prefix + form[len(prefix) :] for form in (_LEAST_ID, _GREATEST_ID))
        ways.append(jobs.c.id.between(least, greatest))
    return ways


def _begins(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    end = after_prefix(prefix)
    return column >= prefix if end is None else and_(column >= prefix, column < end)


def _could_begin_an_id(prefix: str) -> bool:
    if len(prefix) > len(_LEAST_ID):
        return False
    return all(
        character == "-" if form == "-" else character in "0123456789abcdef"
        for character, form in zip(prefix, _LEAST_ID, strict=False)
    )
