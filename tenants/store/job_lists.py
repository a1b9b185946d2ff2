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
#: How many of the newest jobs are looked at first for a prefix, and how many jobs with it otherwise.
_NEAR, _MOST = 5_000, 2_000
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
    place = None if cursor is None else decode_place(cursor, int)
    if place is not None:
        conditions.append(jobs.c.seq < place)
    if chosen.account is None:
        found = _recent(connection, chosen, conditions, place, limit) or _few(
            connection, chosen, conditions, place, limit
        )
        if found is not None:
            return found
    # One condition with three ways to be true has no index; each way by itself has one.
    ways = [
        _tagged(select(jobs.c.seq), chosen, [*conditions, jobs.c.seq.in_(way)])
        .order_by(jobs.c.seq.desc())
        .limit(limit + 1)
        .subquery()
        for way in _beginnings(chosen.q)
    ]
    newest = union(*(select(way.c.seq) for way in ways)).subquery()
    statement = select(*SUMMARY).where(jobs.c.seq.in_(select(newest.c.seq)))
    return newest_first(connection, statement, jobs.c.seq, limit=limit, cursor=None)


# A database cannot know whether the jobs with a prefix are old or new ones, and so which way to them is the short one:
# back from the newest job, or by all that has the prefix. So both are tried as far as they are short.


def _recent(
    connection: Connection, chosen: JobFilter, conditions: list[ColumnElement[bool]], place: int | None, limit: int
) -> Page | None:
    """A whole page from the newest jobs alone, for what many have; None when they do not fill it."""
    assert chosen.q is not None
    above = place or (connection.execute(select(func.max(jobs.c.seq))).scalar() or 0) + 1
    ways = [way.where(number >= above - _NEAR) for way in _beginnings(chosen.q) for (number,) in [way.selected_columns]]
    begin = select(union(*ways).subquery().c[0])
    statement = _tagged(select(*SUMMARY), chosen, [*conditions, jobs.c.seq >= above - _NEAR, jobs.c.seq.in_(begin)])
    found = newest_first(connection, statement, jobs.c.seq, limit=limit, cursor=None)
    return found if found.next_cursor is not None else None


def _few(
    connection: Connection, chosen: JobFilter, conditions: list[ColumnElement[bool]], place: int | None, limit: int
) -> Page | None:
    """A page from all that has the prefix, by its indexes; None when that is much, and most of it is filtered out."""
    assert chosen.q is not None
    known: set[int] = set()
    floor = 0
    for way in _beginnings(chosen.q):
        fenced = way.offset(0).subquery()  # or the database would again go back from the newest job
        (number,) = fenced.c
        newest = select(number) if place is None else select(number).where(number < place)
        seqs = connection.execute(newest.order_by(number.desc()).limit(_MOST)).scalars().all()
        known.update(seqs)
        if len(seqs) == _MOST:
            floor = max(floor, seqs[-1])  # of what is older, not all is known
    among_known = jobs.c.seq.in_([seq for seq in known if seq >= floor])
    statement = _tagged(select(*SUMMARY), chosen, [*conditions, among_known])
    found = newest_first(connection, statement, jobs.c.seq, limit=limit, cursor=None)
    return found if found.next_cursor is not None or not floor else None


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


def _beginnings(prefix: str) -> list[Select[tuple[int]]]:
    """The numbers of the jobs that begin with this text, in each way: by the unique key, a tag, or the id."""
    keyed = and_(jobs.c.unique_key.is_not(None), _begins(jobs.c.unique_key, prefix))
    ways = [select(jobs.c.seq).where(keyed), select(tags.c.job_seq).where(_begins(tags.c.tag, prefix))]
    if _could_begin_an_id(prefix):
        # Whole ids of one form compare alike in every locale; a mere beginning would not.
        least, greatest = (prefix + form[len(prefix) :] for form in (_LEAST_ID, _GREATEST_ID))
        ways.append(select(jobs.c.seq).where(jobs.c.id.between(least, greatest)))
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
