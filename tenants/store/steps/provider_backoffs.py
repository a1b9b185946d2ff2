"""Backoffs per provider and credential ("scope"): they delay every step that uses the credential, and no other.

A credential that its provider refuses permanently (no quota, no credits, a wrong key) has a row too. It delays nothing:
steps fail at once, and the row explains why until the provider accepts the credential, or for a day after the last
refusal.
"""

from __future__ import annotations

from sqlalchemy import Connection, and_, case, delete, select

from ...database.columns import db_now, seconds_since, upsert
from ...database.models import ProviderBackoff

backoffs = ProviderBackoff.__table__

#: The backoff for a provider that names no time.
DEFAULT_SECONDS = 30.0
#: The longest backoff, whatever the provider says.
MAX_SECONDS = 26 * 3600.0


def note(connection: Connection, scope: str, after: float | None, reason: str) -> float:
    """Back the scope off for `after` seconds, unless a longer backoff is set; returns the seconds left."""
    seconds = min(MAX_SECONDS, DEFAULT_SECONDS if after is None else max(0.0, after))
    statement = upsert(connection, backoffs).values(
        scope=scope, until=db_now(seconds), reason=reason[:500], refused=False
    )
    # A backoff replaces a refusal, however long that would be shown.
    longer = and_(backoffs.c.until > statement.excluded.until, backoffs.c.refused.is_(False))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["scope"],
            set_={
                "until": case((longer, backoffs.c.until), else_=statement.excluded.until),
                "reason": case((longer, backoffs.c.reason), else_=statement.excluded.reason),
                "refused": False,
            },
        )
    )
    left = connection.execute(select(-seconds_since(backoffs.c.until)).where(backoffs.c.scope == scope)).scalar_one()
    return max(0.0, float(left))


def refuse(connection: Connection, scope: str, reason: str) -> None:
    """Record that the provider refuses the credential permanently."""
    values = {"until": db_now(MAX_SECONDS), "reason": reason[:500], "refused": True}
    statement = upsert(connection, backoffs).values(scope=scope, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["scope"], set_=values))


def accepted(connection: Connection, scope: str) -> None:
    """Remove a refusal: the provider has accepted the credential."""
    connection.execute(delete(backoffs).where(backoffs.c.scope == scope, backoffs.c.refused))


def refusal(connection: Connection, scope: str) -> str | None:
    """Why the provider refuses the credential; None when it does not."""
    statement = select(backoffs.c.reason).where(
        backoffs.c.scope == scope, backoffs.c.refused, backoffs.c.until > db_now()
    )
    return connection.execute(statement).scalar_one_or_none()


def rest_seconds(connection: Connection, scope: str) -> float | None:
    """Seconds of backoff left; None without one, and while the credential is refused."""
    statement = select(-seconds_since(backoffs.c.until)).where(backoffs.c.scope == scope, backoffs.c.refused.is_(False))
    left = connection.execute(statement).scalar_one_or_none()
    return None if left is None or left <= 0 else float(left)


def forget_past(connection: Connection) -> int:
    """Remove expired backoffs."""
    return connection.execute(delete(backoffs).where(backoffs.c.until < db_now())).rowcount
