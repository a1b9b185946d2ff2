"""Authentication by bearer keys, and what each scope may do.

Invariants
- A key is found by its SHA-256 and compared in constant time; no part of it is stored or logged.
- Nothing is cached between calls: every process refuses a revoked or expired key from the next call on.
- An account's key sees its own rows. Another account's path or id is 404, as if it were not there; an admin row is 403.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pydantic import SecretStr

from tenants.database.transactions import Database
from tenants.store.accounts import keys

from .problems import Problem


class Access(Enum):
    """Who may call a route."""

    PUBLIC = "no key"
    #: Any key; the rows are narrowed to the caller's.
    OWN = "an account's own key, or an admin key"
    ADMIN = "an admin key"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller. `key_id` is `admin` for the key from the settings."""

    key_id: str
    scope: Literal["admin", "account"]
    account: str | None

    @property
    def is_admin(self) -> bool:
        return self.scope == "admin"


class Authenticator:
    """Turns an `Authorization` header into a `Caller`."""

    def __init__(self, database: Database, admin_key: SecretStr | None) -> None:
        self._database = database
        self._admin_digests = _digests(admin_key)
        self._touched: dict[str, float] = {}
        self._touching = threading.Lock()

    def admin(self, authorization: str | None) -> Caller | None:
        """The caller, if the key is the settings' admin key. It needs no database, so it works while that is down.

        Raises:
            Problem: 401, there is no bearer key at all.
        """
        digest = hashlib.sha256(_bearer(authorization).encode()).digest()
        # Every digest is compared, so that the time reveals nothing.
        matches = [hmac.compare_digest(digest, each) for each in self._admin_digests]
        return Caller("admin", "admin", None) if any(matches) else None

    def stored(self, authorization: str | None) -> Caller:
        """The caller, by the keys in the database.

        Raises:
            Problem: 401, the key is unknown, expired or revoked; the answer does not say which.
            Unavailable: the database cannot be reached.
        """
        digest = keys.hash_key(_bearer(authorization))
        found = self._database.read(lambda connection: keys.find(connection, digest))
        if found is None or not hmac.compare_digest(found["hash"], digest):
            raise Problem("unauthenticated", "the key is not known, has expired or was revoked")
        if found["stale"] and self._first_to_touch(found["id"]):
            self._database.write(lambda connection: keys.touch(connection, found["id"]))
        return Caller(found["id"], found["scope"], found["account"])

    def _first_to_touch(self, key_id: str) -> bool:
        """True for one of many concurrent calls, which then stores the last use."""
        now = time.monotonic()
        with self._touching:
            if now - self._touched.get(key_id, -keys.TOUCH_SECONDS) < keys.TOUCH_SECONDS:
                return False
            if len(self._touched) >= 10_000:
                self._touched.clear()
            self._touched[key_id] = now
            return True


def _digests(admin_key: SecretStr | None) -> tuple[bytes, ...]:
    """Several admin keys may be set, separated by commas, so that one can be replaced without an outage."""
    parts = admin_key.get_secret_value().split(",") if admin_key is not None else []
    return tuple(hashlib.sha256(part.strip().encode()).digest() for part in parts if part.strip())


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise Problem("unauthenticated", "send the key as 'Authorization: Bearer <key>'")
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise Problem("unauthenticated", "the Authorization header is not 'Bearer <key>'")
    return key
