"""Lists of jobs, newest first: each filter uses an index, so that a page costs the same among a million jobs.

Invariants
- A page is read in the order of an index and ends with its limit; no sort grows with the table.
  (`tests/tenants/store/test_lists.py` checks the plans.)
- Tags are looked up in `job_tags`, which both databases can search by tag and by prefix.
- `created_at` has no index, which every update of a job would have to maintain. It grows with `seq`, except for
  concurrent transactions, so a range of times is first translated into a range of numbers by binary search.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, union

from ...database.models import Job, JobTag
from ..listings import Page, begins_with, decode_place, narrow, read_page
from .read import SUMMARY

jobs, tags = Job.__table__, JobTag.__table__

#: Longer than any transaction that inserts jobs, and than any correction of the database's clock.
_OVERLAP = timedelta(minutes=10)
#: How many of the newest jobs are searched for a prefix first, and how many jobs with the prefix afterwards.
RECENT_JOBS, PREFIX_MATCHES = 5_000, 2_000
_LEAST_ID, _GREATEST_ID = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The filters of `page`; `q` is a prefix of the id, a tag or the unique key."""

    account: str | None = None
    status: str | None = None
    pipeline: str | None = None
    tag: str | None = None
    q: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    #: Also webhook deliveries.
    deliveries: bool = False


def page(connection: Connection, chosen: JobFilter, *, limit: int, cursor: str | None) -> Page:
    """Summaries, newest first.

    Raises:
        InvalidInput: the cursor has no valid form.
    """
    conditions = _conditions(connection, chosen)
    if chosen.q is None:
        statement = _selected(select(*SUMMARY), chosen, conditions)
        return read_page(connection, statement, jobs.c.seq, limit=limit, cursor=cursor)
    place = None if cursor is None else decode_place(cursor, int)
    if place is not None:
        conditions.append(jobs.c.seq < place)
    if chosen.account is None:
        for search in (_among_recent, _among_matches):
            found = search(connection, chosen, conditions, place, limit)
            if found is not None:
                return found
    # An OR of the three prefix conditions has no index; each condition by itself has one.
    matches = [
        _selected(select(jobs.c.seq), chosen, [*conditions, jobs.c.seq.in_(match)])
        .order_by(jobs.c.seq.desc())
        .limit(limit + 1)
        .subquery()
        for match in _matches(chosen.q)
    ]
    newest = union(*(select(match.c.seq) for match in matches)).subquery()
    statement = select(*SUMMARY).where(jobs.c.seq.in_(select(newest.c.seq)))
    return read_page(connection, statement, jobs.c.seq, limit=limit, cursor=None)


# The database cannot know whether the jobs with a prefix are old or new, and so which plan is fast: back from the
# newest job, or through all jobs with the prefix. So both are tried within a limit.


def _among_recent(
    connection: Connection, chosen: JobFilter, conditions: list[ColumnElement[bool]], place: int | None, limit: int
) -> Page | None:
    """A page from the newest jobs, for a frequent prefix; None when they do not fill it."""
    assert chosen.q is not None
    above = place or (connection.execute(select(func.max(jobs.c.seq))).scalar() or 0) + 1
    low = above - RECENT_JOBS
    matches = [match.where(seq >= low) for match in _matches(chosen.q) for (seq,) in [match.selected_columns]]
    matching = select(union(*matches).subquery().c[0])
    statement = _selected(select(*SUMMARY), chosen, [*conditions, jobs.c.seq >= low, jobs.c.seq.in_(matching)])
    found = read_page(connection, statement, jobs.c.seq, limit=limit, cursor=None)
    return found if found.next_cursor is not None else None


def _among_matches(
    connection: Connection, chosen: JobFilter, conditions: list[ColumnElement[bool]], place: int | None, limit: int
) -> Page | None:
    """A page from all jobs with the prefix; None when there are too many, and the other filters exclude most."""
    assert chosen.q is not None
    known: set[int] = set()
    floor = 0
    for match in _matches(chosen.q):
        fenced = match.offset(0).subquery()  # prevents the plan that goes back from the newest job
        (number,) = fenced.c
        newest = select(number) if place is None else select(number).where(number < place)
        seqs = connection.execute(newest.order_by(number.desc()).limit(PREFIX_MATCHES)).scalars().all()
        known.update(seqs)
        if len(seqs) == PREFIX_MATCHES:
            floor = max(floor, seqs[-1])  # older matches were not all read
    among_known = jobs.c.seq.in_([seq for seq in known if seq >= floor])
    statement = _selected(select(*SUMMARY), chosen, [*conditions, among_known])
    found = read_page(connection, statement, jobs.c.seq, limit=limit, cursor=None)
    return found if found.next_cursor is not None or not floor else None


def _selected(statement: Select[Any], chosen: JobFilter, conditions: list[ColumnElement[bool]]) -> Select[Any]:
    if chosen.tag is not None:
        statement = statement.join(tags, and_(tags.c.job_seq == jobs.c.seq, tags.c.tag == chosen.tag))
    columns = (jobs.c.account, jobs.c.status, jobs.c.pipeline)
    return narrow(statement.where(*conditions), *((column, getattr(chosen, column.name)) for column in columns))


def _conditions(connection: Connection, chosen: JobFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if not chosen.deliveries:
        conditions.append(jobs.c.ended_job_id.is_(None))
    if chosen.created_after is not None:
        conditions.append(jobs.c.created_at > chosen.created_after)
        conditions.append(jobs.c.seq >= _first_seq_at(connection, chosen.created_after, -_OVERLAP))
    if chosen.created_before is not None:
        conditions.append(jobs.c.created_at < chosen.created_before)
        conditions.append(jobs.c.seq < _first_seq_at(connection, chosen.created_before, _OVERLAP))
    return conditions


def _first_seq_at(connection: Connection, moment: datetime, offset: timedelta) -> int:
    """About the `seq` of the first job created at that time or later; the offset makes up for the inaccuracy."""
    with contextlib.suppress(OverflowError):  # beyond the first or the last time of the calendar
        moment += offset
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


def _matches(prefix: str) -> list[Select[tuple[int]]]:
    """The `seq` of each job with the prefix: by the unique key, by a tag, and by the id."""
    keyed = and_(jobs.c.unique_key.is_not(None), begins_with(jobs.c.unique_key, prefix))
    matches = [select(jobs.c.seq).where(keyed), select(tags.c.job_seq).where(begins_with(tags.c.tag, prefix))]
    if _could_begin_an_id(prefix):
        # Whole ids sort equally in every locale; a prefix does not.
        least, greatest = (prefix + form[len(prefix) :] for form in (_LEAST_ID, _GREATEST_ID))
        matches.append(select(jobs.c.seq).where(jobs.c.id.between(least, greatest)))
    return matches


def _could_begin_an_id(prefix: str) -> bool:
    if len(prefix) > len(_LEAST_ID):
        return False
    return all(
        character == "-" if form == "-" else character in "0123456789abcdef"
        for character, form in zip(prefix, _LEAST_ID, strict=False)
    )
