"""API keys. Only a key's SHA-256 is kept: keys are 256 random bits, so there is nothing to guess or to salt.

A revoked key's row stays, so that the audit's references keep their meaning; it never opens anything again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, case, insert, or_, select, update

from ..columns import db_now
from ..errors import NotFound
from ..models import ApiKey, new_id
from .accounts import ensure_account
from .listings import Page, newest_first

keys = ApiKey.__table__

KEY_PREFIX = "olk_"
#: `last_used_at` is written at most this often, so that using a key is not a write on each call.
TOUCH_SECONDS = 60
_SHOWN = [column for column in keys.c if column.name not in ("hash", "revoked_at")]


def make_key() -> str:
    """A new key: a prefix by which scanners for leaked secrets can know it, and 256 random bits."""
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
    """Keep the hash of `key`; an account comes into being with its first key."""
    if (scope == "account") != (account is not None):
        raise ValueError(f"a key of scope {scope} and account {account!r} makes no sense")
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
    """The living key with that hash, with `stale`: whether its last use should be written down again."""
    stale = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < db_now(-TOUCH_SECONDS))
    living = or_(keys.c.expires_at.is_(None), keys.c.expires_at > db_now())
    statement = select(keys.c.id, keys.c.hash, keys.c.scope, keys.c.account, stale.label("stale")).where(
        keys.c.hash == digest, keys.c.revoked_at.is_(None), living
    )
    return connection.execute(statement).mappings().one_or_none()


def touch(connection: Connection, key_id: str) -> None:
    connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=db_now()))


def living(connection: Connection, account: str | None, key_id: str, *, lock: bool = False) -> RowMapping:
    """A key that opens, of an account or, with None, of scope admin.

    Raises:
        NotFound: there is no such key, or it has ended.
    """
    unexpired = or_(keys.c.expires_at.is_(None), keys.c.expires_at > db_now())
    chosen = select(keys).where(keys.c.id == key_id, _of(account), keys.c.revoked_at.is_(None), unexpired)
    found = connection.execute(chosen.with_for_update() if lock else chosen).mappings().one_or_none()
    if found is None:
        raise NotFound(f"{_whose(account)} no key {key_id!r} that opens")
    return found


def rotate(
    connection: Connection,
    account: str | None,
    key_id: str,
    key: str,
    *,
    overlap_seconds: float,
    expires_at: datetime | None = None,
) -> RowMapping:
    """Make `key` in the place of a living one: its scope and name, and, unless told otherwise, its lifetime.

    The old one opens for `overlap_seconds` more, or until it would have ended anyway.

    Raises:
        NotFound: there is no such key, or it has ended.
    """
    old = living(connection, account, key_id, lock=True)
    if expires_at is None and old["expires_at"] is not None:
        now = connection.execute(select(db_now())).scalar_one()
        expires_at = now + (old["expires_at"] - old["created_at"])
    sooner = or_(keys.c.expires_at.is_(None), keys.c.expires_at > db_now(overlap_seconds))
    ends = case((sooner, db_now(overlap_seconds)), else_=keys.c.expires_at)
    connection.execute(update(keys).where(keys.c.id == key_id).values(expires_at=ends))
    return create(connection, key, scope=old["scope"], account=account, name=old["name"], expires_at=expires_at)


def page(connection: Connection, account: str | None, *, limit: int, cursor: str | None) -> Page:
    """An account's keys that were not revoked, newest first, without their hashes; None: those of scope admin."""
    statement = select(*_SHOWN).where(_of(account), keys.c.revoked_at.is_(None))
    return newest_first(connection, statement, keys.c.id, limit=limit, cursor=cursor)


def revoke(connection: Connection, account: str | None, key_id: str) -> None:
    """End one key of an account, or, with None, of scope admin.

    Raises:
        NotFound: there is no such key, or it was revoked before.
    """
    changed = connection.execute(
        update(keys).where(keys.c.id == key_id, _of(account), keys.c.revoked_at.is_(None)).values(revoked_at=db_now())
    ).rowcount
    if not changed:
        raise NotFound(f"{_whose(account)} no key {key_id!r}")


def revoke_all(connection: Connection, account: str) -> Sequence[str]:
    """End all keys of an account; their ids."""
    statement = update(keys).where(keys.c.account == account, keys.c.revoked_at.is_(None))
    return connection.execute(statement.values(revoked_at=db_now()).returning(keys.c.id)).scalars().all()


def _of(account: str | None) -> ColumnElement[bool]:
    return keys.c.account == account if account is not None else keys.c.scope == "admin"


def _whose(account: str | None) -> str:
    return f"account {account!r} has" if account is not None else "there is"
