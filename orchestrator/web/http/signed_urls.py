"""Signed addresses that give access to one file for some time without a key, so that a page can show an image.

The signature covers the path and the expiry time. Its key is derived from `ONELANE_SECRET_KEY`, so all control planes
accept each other's signatures and store none. Of several secret keys the first signs and all are accepted.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

_PURPOSE = b"onelane signed address v1"


class AddressSigner:
    """Signs paths and verifies signatures. `clock` returns seconds since the epoch."""

    def __init__(self, secret_keys: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._keys = [hmac.new(key.encode(), _PURPOSE, hashlib.sha256).digest() for key in secret_keys]
        self._clock = clock

    def sign(self, path: str, *, seconds: float) -> str:
        """The path with a signature that expires after `seconds`."""
        expires = int(self._clock() + seconds)
        return f"{path}?expires={expires}&signature={_signature(self._keys[0], path, expires)}"

    def is_valid(self, path: str, expires: int, signature: str) -> bool:
        """Whether one of the keys signed it, and it has not expired."""
        given = signature.encode("utf-8", "replace")
        # Every key is tried, so that the time reveals nothing.
        fits = [hmac.compare_digest(given, _signature(key, path, expires).encode()) for key in self._keys]
        return any(fits) and self._clock() < expires


def _signature(key: bytes, path: str, expires: int) -> str:
    digest = hmac.new(key, f"{path}\n{expires}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
