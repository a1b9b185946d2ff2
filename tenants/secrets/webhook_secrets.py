"""The secrets that sign accounts' webhooks, by Standard Webhooks: sealed in the database, and shown once.

An account without a secret gets one with its first webhook, so that every call is signed; a rotation makes one that is
shown. The previous secret signs for a day more, so that receivers can change over.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, select
from standardwebhooks import Webhook

from ..database.columns import db_now, upsert
from ..database.models import WebhookSecret
from ..database.transactions import Database
from ..errors import NotFound
from ..store.accounts.accounts import ensure_account
from ..store.removal.erasures import account_exists
from .sealing import Sealer

webhook_secrets = WebhookSecret.__table__

#: How long the previous secret signs too.
OVERLAP_SECONDS = 24 * 3600.0
_BYTES = 32
_PURPOSE = "webhook secret"


class WebhookSecrets:
    """Creates and rotates secrets, and signs with them."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def rotate(
        self, account: str, *, within: Callable[[Connection, dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Create a new secret: `{secret, created_at, previous_until}`. The previous one signs for a day more.

        `within` is called with it in the same transaction.
        """
        secret = _new_secret()

        def work(connection: Connection) -> dict[str, Any]:
            ensure_account(connection, account)
            self._put(connection, account, secret)
            made = {"secret": secret, **_describe(connection, account)}
            if within is not None:
                within(connection, made)
            return made

        return self._database.write(work)

    def describe(self, account: str) -> dict[str, Any]:
        """`{created_at, previous_until}`.

        Raises:
            NotFound: the account has no secret yet.
        """
        return self._database.read(lambda connection: _describe(connection, account))

    def signatures(self, account: str, message_id: str, at: datetime, body: str) -> str:
        """The header `webhook-signature`: the current secret's signature, and the previous one's during the overlap.

        Raises:
            SecretsError: a secret cannot be opened with the configured keys.
            NotFound: the account was erased.
        """
        sealed = self._database.read(lambda connection: _valid(connection, account))
        if not sealed:
            sealed = self._database.write(lambda connection: self._first(connection, account))
        opened = [self._sealer.open(each, account=account, purpose=_PURPOSE) for each in sealed]
        return " ".join(Webhook(secret).sign(message_id, at, body) for secret in opened)

    def _first(self, connection: Connection, account: str) -> list[bytes]:
        """Create a secret unless there is one; not for an account that was erased meanwhile."""
        if not account_exists(connection, account):
            raise NotFound(f"account {account!r} no longer exists")
        sealed = self._sealer.seal(_new_secret(), account=account, purpose=_PURPOSE)
        statement = upsert(connection, webhook_secrets).values(account=account, secret=sealed, created_at=db_now())
        connection.execute(statement.on_conflict_do_nothing())
        return _valid(connection, account)

    def _put(self, connection: Connection, account: str, secret: str) -> None:
        sealed = self._sealer.seal(secret, account=account, purpose=_PURPOSE)
        statement = upsert(connection, webhook_secrets).values(account=account, secret=sealed, created_at=db_now())
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["account"],
                set_={
                    "secret": sealed,
                    "previous": webhook_secrets.c.secret,
                    "previous_until": db_now(OVERLAP_SECONDS),
                    "created_at": db_now(),
                },
            )
        )


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(_BYTES)).decode("ascii")


def _valid(connection: Connection, account: str) -> list[bytes]:
    """The sealed secrets that sign now, the current one first."""
    previous = case((webhook_secrets.c.previous_until > db_now(), webhook_secrets.c.previous))
    statement = select(webhook_secrets.c.secret, previous).where(webhook_secrets.c.account == account)
    row = connection.execute(statement).one_or_none()
    return [] if row is None else [bytes(each) for each in row if each is not None]


def _describe(connection: Connection, account: str) -> dict[str, Any]:
    statement = select(webhook_secrets.c.created_at, webhook_secrets.c.previous_until)
    row = connection.execute(statement.where(webhook_secrets.c.account == account)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"account {account!r} has no webhook secret yet")
    return dict(row)
