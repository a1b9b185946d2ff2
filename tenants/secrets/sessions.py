"""Accounts' browser sessions: Playwright storage states and credentials, sealed in the database.

The API never shows them, only the status and its times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from ..database.columns import db_now, upsert
from ..database.models import Session
from ..database.transactions import Database
from ..errors import NotFound
from ..store.accounts.accounts import ensure_account
from ..store.accounts.settings import end_login_pauses
from .sealing import Sealer

sessions = Session.__table__


@dataclass(frozen=True, slots=True)
class OpenSession:
    """An opened session, for a step of its account."""

    storage_state: dict[str, Any] | None
    credentials: dict[str, str] | None
    status: str

    def __repr__(self) -> str:
        return f"OpenSession(status={self.status!r})"


class Sessions:
    """Stores, opens and removes sessions."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def put(
        self,
        account: str,
        *,
        storage_state: dict[str, Any] | None,
        credentials: dict[str, str] | None,
        expires_at: datetime | None = None,
    ) -> dict[str, Any]:
        """Set the session; values that are None stay as they were. Returns what `describe` does.

        This ends the pauses that a missing session has caused; the caller calls `SettingsSync.sync_account`.
        """

        def work(connection: Connection) -> dict[str, Any]:
            ensure_account(connection, account)
            self.save(connection, account, storage_state=storage_state, credentials=credentials, expires_at=expires_at)
            end_login_pauses(connection, account)
            return _describe(connection, account)

        return self._database.write(work)

    def save(
        self,
        connection: Connection,
        account: str,
        *,
        storage_state: dict[str, Any] | None = None,
        credentials: dict[str, str] | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Seal and store the given values, in the caller's transaction; the session is `ready` then."""
        values: dict[str, Any] = {"status": "ready", "reason": None, "updated_at": db_now(), "expires_at": expires_at}
        if storage_state is not None:
            values["storage_state"] = self._sealer.seal(storage_state, account=account, purpose="storage state")
        if credentials is not None:
            values["credentials"] = self._sealer.seal(credentials, account=account, purpose="credentials")
        statement = upsert(connection, sessions).values(account=account, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["account"], set_=values))

    def describe(self, account: str) -> dict[str, Any]:
        """`{status, updated_at, expires_at}`; status is none, ready, expired or login_required."""
        return self._database.read(lambda connection: _describe(connection, account))

    def load(self, account: str) -> OpenSession | None:
        """Open the account's session; None when it has none.

        Raises:
            SecretsError: it cannot be opened with the configured keys.
        """

        def work(connection: Connection) -> Any:
            return connection.execute(select(sessions).where(sessions.c.account == account)).mappings().one_or_none()

        row = self._database.read(work)
        if row is None:
            return None
        opened = {
            name: None if row[name] is None else self._sealer.open(row[name], account=account, purpose=purpose)
            for name, purpose in (("storage_state", "storage state"), ("credentials", "credentials"))
        }
        return OpenSession(opened["storage_state"], opened["credentials"], row["status"])

    def require_login(self, connection: Connection, account: str, reason: str) -> None:
        """Record that a person must sign in; the invalid storage state is removed, the credentials stay."""
        connection.execute(
            update(sessions)
            .where(sessions.c.account == account)
            .values(status="login_required", reason=reason, storage_state=None, updated_at=db_now())
        )

    def delete(self, account: str) -> None:
        """Remove the session.

        Raises:
            NotFound: the account has no session.
        """

        def work(connection: Connection) -> int:
            return connection.execute(delete(sessions).where(sessions.c.account == account)).rowcount

        if not self._database.write(work):
            raise NotFound(f"account {account!r} has no session")


def _describe(connection: Connection, account: str) -> dict[str, Any]:
    row = connection.execute(
        select(
            sessions.c.status,
            sessions.c.updated_at,
            sessions.c.expires_at,
            (sessions.c.expires_at < db_now()).label("over"),
        ).where(sessions.c.account == account)
    ).one_or_none()
    if row is None:
        return {"status": "none", "updated_at": None, "expires_at": None}
    status = "expired" if row.over and row.status == "ready" else row.status
    return {"status": status, "updated_at": row.updated_at, "expires_at": row.expires_at}
