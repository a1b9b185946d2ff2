"""Backoffs per provider and credential: everybody who uses the credential waits, and nobody else does.

A credential that its provider refuses for good (no quota, no credits, a wrong key) is kept here too. It delays nothing:
steps fail at once, and its row is there to explain that until an answer comes, or for a day after the last refusal.
"""

from __future__ import annotations

from sqlalchemy import Connection, and_, case, delete, select

from ..columns import db_now, seconds_since, upsert
from ..models import ProviderBackoff

backoffs = ProviderBackoff.__table__

#: What a provider that names no time gets.
DEFAULT_SECONDS = 30.0
#: A provider cannot put a credential to rest for longer than a day and a bit.
MAX_SECONDS = 26 * 3600.0


def note(connection: Connection, scope: str, after: float | None, reason: str) -> float:
    """Let the scope rest for `after` seconds; a longer rest that is noted already stays. Gives back the rest left."""
    seconds = min(MAX_SECONDS, DEFAULT_SECONDS if after is None else max(0.0, after))
    statement = upsert(connection, backoffs).values(
        scope=scope, until=db_now(seconds), reason=reason[:500], refused=False
    )
    # A credential in backoff is not refused for good any more.
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
    """Note that the provider refuses the credential for good."""
    values = {"until": db_now(MAX_SECONDS), "reason": reason[:500], "refused": True}
    statement = upsert(connection, backoffs).values(scope=scope, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["scope"], set_=values))


def accepted(connection: Connection, scope: str) -> None:
    """The provider has answered this credential: a refusal is over."""
    connection.execute(delete(backoffs).where(backoffs.c.scope == scope, backoffs.c.refused))


def refusal(connection: Connection, scope: str) -> str | None:
    """Why the provider refuses the credential; None when it does not."""
    statement = select(backoffs.c.reason).where(
        backoffs.c.scope == scope, backoffs.c.refused, backoffs.c.until > db_now()
    )
    return connection.execute(statement).scalar_one_or_none()


def rest_seconds(connection: Connection, scope: str) -> float | None:
    """For how long the credential must still rest; None when it need not, and when it is refused."""
    statement = select(-seconds_since(backoffs.c.until)).where(backoffs.c.scope == scope, backoffs.c.refused.is_(False))
    left = connection.execute(statement).scalar_one_or_none()
    return None if left is None or left <= 0 else float(left)


def forget_past(connection: Connection) -> int:
    """Remove backoffs that are over."""
    return connection.execute(delete(backoffs).where(backoffs.c.until < db_now())).rowcount
