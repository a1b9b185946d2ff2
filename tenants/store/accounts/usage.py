"""Accounts' usage by UTC day: jobs accepted, seconds that steps ran, tokens, confirmed posts, bytes stored.

Seconds are not counted at a step's end, which would slow every step down: they are summed from the attempts, and added
to the day's row when the attempts are removed.

Invariant: an attempt's seconds are either in an attempt or in a row of `usage`, never in both or neither, because the
attempt is removed and its seconds are added in one transaction. They belong to the day on which the attempt ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, literal, select, union_all

from ...database.columns import db_now, seconds_between, upsert, utc_day
from ...database.models import Attempt, Usage
from .accounts import lanes_with_attempts

attempts, usage = Attempt.__table__, Usage.__table__

#: Days of usage on an account's page.
SHOWN_DAYS = 30
NOTHING: dict[str, Any] = {"jobs": 0, "seconds": 0.0, "tokens": 0, "posts": 0, "bytes": 0}


def add(connection: Connection, account: str, **used: float) -> None:
    """Add to the account's usage of today, by the database's clock."""
    add_to_day(connection, account, today(connection), **used)


def today(connection: Connection) -> str:
    """The UTC day by the database's clock."""
    return connection.execute(select(utc_day(db_now()))).scalar_one()


def add_to_day(connection: Connection, account: str, day: str, **used: float) -> None:
    """Add to the account's usage of a UTC day; inserts the day's row if there is none."""
    statement = upsert(connection, usage).values(account=account, day=day, **{**NOTHING, **used})
    sums = {name: usage.c[name] + statement.excluded[name] for name in used}
    connection.execute(statement.on_conflict_do_update(index_elements=["account", "day"], set_=sums))


def remove_attempts(connection: Connection, job_ids: Sequence[str]) -> int:
    """Remove the attempts of jobs and add their seconds to the accounts' days; returns how many were removed."""
    removed = connection.execute(
        delete(attempts)
        .where(attempts.c.job_id.in_(job_ids))
        .returning(attempts.c.account, attempts.c.started_at, attempts.c.finished_at)
    ).all()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for each in removed:
        if each.finished_at is not None:
            day = each.finished_at.date().isoformat()
            seconds[each.account, day] += (each.finished_at - each.started_at).total_seconds()
    # In a fixed order, so that concurrent removals do not deadlock.
    for (account, day), total in sorted(seconds.items()):
        add_to_day(connection, account, day, seconds=total)
    return len(removed)


def of_account(
    connection: Connection,
    account: str,
    *,
    first: str | None = None,
    last: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """`day jobs seconds tokens posts bytes` of each day with usage, newest first; `first` and `last` are included."""
    lanes = lanes_with_attempts()
    day = utc_day(attempts.c.finished_at)
    seconds = func.sum(seconds_between(attempts.c.started_at, attempts.c.finished_at))
    live = (
        select(day.label("day"), *(seconds if name == "seconds" else literal(0) for name in NOTHING))
        .where(attempts.c.lane == lanes.c.lane, attempts.c.account == account, attempts.c.finished_at.is_not(None))
        .group_by(day)
    )
    kept = select(usage.c.day, *(usage.c[name] for name in NOTHING)).where(usage.c.account == account)
    # One statement has one snapshot, so attempts that are removed meanwhile are counted once.
    both = union_all(_between_days(kept, usage.c.day, first, last), _between_days(live, day, first, last))
    days: dict[str, dict[str, Any]] = {}
    for row in connection.execute(both):
        found = days.setdefault(row[0], {"day": row[0], **NOTHING})
        for name, value in zip(NOTHING, row[1:], strict=True):
            found[name] += value
    for each in days.values():
        each["seconds"] = max(0.0, round(each["seconds"], 6))
    return [days[day] for day in sorted(days, reverse=True)[:limit]]


def _between_days(statement: Any, day: Any, first: str | None, last: str | None) -> Any:
    if first is not None:
        statement = statement.where(day >= first)
    return statement if last is None else statement.where(day <= last)
