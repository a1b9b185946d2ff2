"""How long steps took, by their attempts."""

from __future__ import annotations

from statistics import fmean

from sqlalchemy import Connection, select

from ...database.models import Attempt

attempts = Attempt.__table__

#: Attempts that a mean is taken of: enough to even out, few enough to follow a change within a day.
RECENT = 20
#: Outcomes that say nothing about how long a step takes.
_CUT_SHORT = ("lost", "cancelled", "snoozed", "provider_busy")


def recent_mean(connection: Connection, lane: str, account: str) -> float | None:
    """Seconds that the account's last attempts on the lane took on average; None where it has had none."""
    statement = (
        select(attempts.c.started_at, attempts.c.finished_at)
        .where(
            attempts.c.lane == lane,
            attempts.c.account == account,
            attempts.c.finished_at.is_not(None),
            attempts.c.outcome.not_in(_CUT_SHORT),
        )
        .order_by(attempts.c.started_at.desc())
        .limit(RECENT)
    )
    took = [(row.finished_at - row.started_at).total_seconds() for row in connection.execute(statement)]
    return fmean(took) if took else None
