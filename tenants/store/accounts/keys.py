"""API keys. Only a key's SHA-256 is stored: keys are 256 random bits, so they cannot be guessed and need no salt.

A revoked key's row stays, because the audit refers to it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, insert, or_, select, update

from ...database.columns import db_now
from ...database.models import ApiKey, new_id
from ...errors import NotFound
from ..listings import Page, fetch_one, read_page
from .accounts import ensure_account

keys = ApiKey.__table__

KEY_PREFIX = "olk_"
#: `last_used_at` is written at most this often, so that not every call is a write.
TOUCH_SECONDS = 60
_SHOWN = [column for column in keys.c if column.name not in ("hash", "revoked_at")]


def make_key() -> str:
    """A new key: a prefix for scanners of leaked secrets, and 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def create(
    connection: Connection,
    key: str,
    *,
    scope: Literal["admin", "account"],
    account: str | None,
    name: str = "",
    expires_at: datetime | None = None,
) -> RowMapping:
    """Store the hash of `key`; an account's first key creates the account."""
    if (scope == "account") != (account is not None):
        raise ValueError(f"a key of scope {scope} cannot have the account {account!r}")
    if account is not None:
        ensure_account(connection, account)
    values: dict[str, Any] = {
        "id": new_id(),
        "hash": hash_key(key),
        "scope": scope,
        "account": account,
        "name": name,
        "hint": f"{key[: len(KEY_PREFIX) + 3]}…{key[-3:]}",
        "created_at": db_now(),
        "expires_at": expires_at,
    }
    return connection.execute(insert(keys).values(values).returning(*_SHOWN)).mappings().one()


def find(connection: Connection, digest: str) -> RowMapping | None:
    """The valid key with that hash, with `stale`: whether its last use should be written again."""
    stale = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < db_now(-TOUCH_SECONDS))
    statement = select(keys.c.id, keys.c.hash, keys.c.scope, keys.c.account, stale.label("stale"))
    return connection.execute(statement.where(keys.c.hash == digest, _is_valid())).mappings().one_or_none()


def touch(connection: Connection, key_id: str) -> None:
    connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=db_now()))


def fetch_valid(connection: Connection, account: str | None, key_id: str, *, lock: bool = False) -> RowMapping:
    """A valid key of an account or, with None, of scope admin.

    Raises:
        NotFound: there is no such key, it has expired, or it was revoked.
    """
    statement = select(keys).where(keys.c.id == key_id, _of(account), _is_valid())
    missing = f"{_whose(account)} no valid key {key_id!r}"
    return fetch_one(connection, statement.with_for_update() if lock else statement, missing)


def rotate(
    connection: Connection,
    account: str | None,
    key_id: str,
    key: str,
    *,
    overlap_seconds: float,
    expires_at: datetime | None = None,
) -> RowMapping:
    """Replace a valid key by `key`, with the same scope and name and, without `expires_at`, the same lifetime.

    The old one is valid for `overlap_seconds` more, or until its expiry if that is earlier.

    Raises:
        NotFound: as `fetch_valid`.
    """
    old = fetch_valid(connection, account, key_id, lock=True)
    if expires_at is None and old["expires_at"] is not None:
        now = connection.execute(select(db_now())).scalar_one()
        expires_at = now + (old["expires_at"] - old["created_at"])
    sooner = or_(keys.c.expires_at.is_(None), keys.c.expires_at > db_now(overlap_seconds))
    ends = case((sooner, db_now(overlap_seconds)), else_=keys.c.expires_at)
    connection.execute(update(keys).where(keys.c.id == key_id).values(expires_at=ends))
    return create(connection, key, scope=old["scope"], account=account, name=old["name"], expires_at=expires_at)


def page(connection: Connection, account: str | None, *, limit: int, cursor: str | None) -> Page:
    """An account's keys that were not revoked, newest first, without hashes; None: those of scope admin."""
    statement = select(*_SHOWN).where(_of(account), keys.c.revoked_at.is_(None))
    return read_page(connection, statement, keys.c.id, limit=limit, cursor=cursor)


def revoke(connection: Connection, account: str | None, key_id: str) -> None:
    """Revoke one key of an account, or, with None, of scope admin.

    Raises:
        NotFound: there is no such key, or it was revoked before.
    """
    changed = connection.execute(
        update(keys).where(keys.c.id == key_id, _of(account), keys.c.revoked_at.is_(None)).values(revoked_at=db_now())
    ).rowcount
    if not changed:
        raise NotFound(f"{_whose(account)} no key {key_id!r}")


def revoke_all(connection: Connection, account: str) -> Sequence[str]:
    """Revoke all keys of an account; returns their ids."""
    statement = update(keys).where(keys.c.account == account, keys.c.revoked_at.is_(None))
    return connection.execute(statement.values(revoked_at=db_now()).returning(keys.c.id)).scalars().all()


def _is_valid() -> ColumnElement[bool]:
    return and_(keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > db_now()))


def _of(account: str | None) -> ColumnElement[bool]:
    return keys.c.account == account if account is not None else keys.c.scope == "admin"


def _whose(account: str | None) -> str:
    return f"account {account!r} has" if account is not None else "there is"
