"""Backoffs per provider and credential: everybody who uses the credential waits, and nobody else does."""

from __future__ import annotations

from sqlalchemy import Connection, case, delete, select

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
    statement = upsert(connection, backoffs).values(scope=scope, until=db_now(seconds), reason=reason[:500])
    longer = backoffs.c.until > statement.excluded.until
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["scope"],
            set_={
                "until": case((longer, backoffs.c.until), else_=statement.excluded.until),
                "reason": case((longer, backoffs.c.reason), else_=statement.excluded.reason),
            },
        )
    )
    left = connection.execute(select(-seconds_since(backoffs.c.until)).where(backoffs.c.scope == scope)).scalar_one()
    return max(0.0, float(left))


def forget_past(connection: Connection) -> int:
    """Remove backoffs that are over."""
    return connection.execute(delete(backoffs).where(backoffs.c.until < db_now())).rowcount
