"""Addresses that open one thing for a while without a key, so that a page can show an image.

The signature covers path and end; its key is derived from `ONELANE_SECRET_KEY`, so every control plane makes and takes
the same ones, and none is kept. Of several secret keys the first signs and all are taken, as with what is sealed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

_PURPOSE = b"onelane signed address v1"


class AddressSigner:
    """Signs paths and judges signatures. `clock` gives seconds since the epoch."""

    def __init__(self, secret_keys: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._keys = [hmac.new(key.encode(), _PURPOSE, hashlib.sha256).digest() for key in secret_keys]
        self._clock = clock

    def sign(self, path: str, *, seconds: float) -> str:
        """The path with a signature that ends after so many seconds."""
        expires = int(self._clock() + seconds)
        return f"{path}?expires={expires}&signature={_signature(self._keys[0], path, expires)}"

    def is_valid(self, path: str, expires: int, signature: str) -> bool:
        """Whether one of our keys signed it, and its time is not over."""
        given = signature.encode("utf-8", "replace")
        # Every key is tried, so that the time it takes tells nothing.
        fits = [hmac.compare_digest(given, _signature(key, path, expires).encode()) for key in self._keys]
        return any(fits) and self._clock() < expires


def _signature(key: bytes, path: str, expires: int) -> str:
    digest = hmac.new(key, f"{path}\n{expires}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
