"""Sealing of secrets at rest: AES-256-GCM under keys derived from `ONELANE_SECRET_KEY`.

A sealed value is ``version (1 byte) + key id (4) + nonce (12) + ciphertext``. Account and purpose are its associated
data, so that a value that is copied to another account cannot be opened. Of several keys the first seals, and any
opens, which allows a rotation (`tenants.secrets.key_rotation`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import SecretsError

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
#: The length of the prefix that identifies the key of a sealed value.
BEGINNING_BYTES = len(_VERSION) + _KEY_ID_BYTES
#: A key of fewer characters could be guessed from a stolen database.
MIN_KEY_CHARACTERS = 24


def new_key() -> str:
    """A fresh secret key, as text for a setting or a file."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


class Sealer:
    """Seals and opens JSON values for one account and purpose."""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys`: secret keys, the one that seals first.

        Raises:
            SecretsError: there is no key, or one is too short.
        """
        if not keys:
            raise SecretsError("no secret key is set; sessions cannot be sealed (ONELANE_SECRET_KEY)")
        if any(len(key) < MIN_KEY_CHARACTERS for key in keys):
            raise SecretsError(f"a secret key is shorter than {MIN_KEY_CHARACTERS} characters (ONELANE_SECRET_KEY)")
        self._ciphers = {_key_id(key): AESGCM(_derive(key)) for key in keys}
        self._sealing_id = _key_id(keys[0])

    @property
    def newest(self) -> bytes:
        """The prefix of all values that the first key has sealed."""
        return _VERSION + self._sealing_id

    def can_open(self, beginning: bytes) -> bool:
        """Whether a value with this prefix was sealed with a configured key."""
        return beginning[:1] == _VERSION and beginning[1:BEGINNING_BYTES] in self._ciphers

    def seal(self, value: Any, *, account: str, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        plain = json.dumps(value, separators=(",", ":")).encode()
        sealed = self._ciphers[self._sealing_id].encrypt(nonce, plain, _bound(account, purpose))
        return _VERSION + self._sealing_id + nonce + sealed

    def open(self, sealed: bytes, *, account: str, purpose: str) -> Any:
        """The value that was sealed.

        Raises:
            SecretsError: it was sealed with a key that is not configured or for another account, or it is damaged.
        """
        version, rest = sealed[:1], sealed[1:]
        key_id, rest = rest[:_KEY_ID_BYTES], rest[_KEY_ID_BYTES:]
        if version != _VERSION:
            raise SecretsError(
                f"a sealed {purpose} of account {account!r} has the form of another release of onelane, "
                "which this one cannot open; start the release that has sealed it, or set it again"
            )
        if key_id not in self._ciphers:
            raise SecretsError(
                f"a sealed {purpose} of account {account!r} was sealed with another secret key; "
                "set the old key beside the new one in ONELANE_SECRET_KEY, separated by a comma"
            )
        try:
            plain = self._ciphers[key_id].decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound(account, purpose))
        except InvalidTag as error:
            raise SecretsError(
                f"the sealed {purpose} of account {account!r} is damaged and cannot be opened"
            ) from error
        return json.loads(plain)


def split_keys(text: str) -> list[str]:
    """The keys in a setting: separated by commas, the one that seals first."""
    return [key.strip() for key in text.split(",") if key.strip()]


def _derive(key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=b"onelane", info=b"seal v1").derive(key.encode())


def _key_id(key: str) -> bytes:
    return hashlib.sha256(b"onelane key id" + key.encode()).digest()[:_KEY_ID_BYTES]


def _bound(account: str, purpose: str) -> bytes:
    return json.dumps([account, purpose]).encode()
