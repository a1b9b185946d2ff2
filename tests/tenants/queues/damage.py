"""Loses single keys of a server: deletes them, cuts them, and puts older copies back."""

from __future__ import annotations

from typing import Any, Literal

#: redis-py types its answers as bytes or str, whichever the client was made for; a test knows that they are bytes.
Client = Any
How = Literal["delete", "truncate", "restore"]


class Damage:
    """What was copied of a server's keys, and what is done to them."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._pattern = f"{prefix}*"
        self._copies: dict[bytes, bytes] = {}

    def keys(self) -> list[bytes]:
        """Those that are there or were copied, sorted."""
        return sorted({*self._client.scan_iter(self._pattern, count=1000), *self._copies})

    def copy(self) -> None:
        """Keep copies of all keys as they are now."""
        for key in self._client.scan_iter(self._pattern, count=1000):
            payload = self._client.dump(key)
            if payload is not None:
                self._copies[key] = payload

    def do(self, key: bytes, how: How) -> None:
        if how == "delete":
            self._client.delete(key)
        elif how == "truncate":
            self._truncate(key)
        elif key in self._copies:
            self._client.restore(key, 0, self._copies[key], replace=True)

    def _truncate(self, key: bytes) -> None:
        client, kind = self._client, self._client.type(key)
        if kind == b"string":
            client.set(key, client.get(key)[: client.strlen(key) // 2])
        elif kind == b"zset":
            client.zremrangebyrank(key, client.zcard(key) // 2, -1)
        elif kind == b"hash":
            fields = sorted(client.hkeys(key))
            client.hdel(key, *fields[len(fields) // 2 :])
        elif kind == b"set":
            members = sorted(client.smembers(key))
            client.srem(key, *members[len(members) // 2 :])
        elif kind == b"list":
            client.ltrim(key, 1, 0)
