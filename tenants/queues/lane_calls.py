"""Script calls on a lane, on each of its shards or on one tenant queue: the base of the administration's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .keys import Keys, shard_of, token
from .known_lanes import KnownLanes
from .lua import script
from .server import Argument, Server


class LaneCalls:
    """The lanes of a namespace. Every method may raise Dramatiq's `ConnectionClosed`."""

    def __init__(
        self,
        server: Server,
        keys: Keys,
        known: KnownLanes,
        declared: Callable[[], Iterable[str]],
        lease_seconds: float = 15.0,
    ) -> None:
        self._server = server
        self._keys = keys
        self._known = known
        self._declared = declared
        self._lease_ms = round(lease_seconds * 1000)

    def lanes(self) -> list[str]:
        """Every lane that was declared here or has ever had a message, sorted."""
        return sorted(self._known.all() | set(self._declared()))

    def _root(self, lane: str, raw: bytes) -> str:
        return self._keys.root(lane, shard_of(raw, self._keys.shards))

    def _roots(self, lane: str) -> list[str]:
        """The roots of the lane's shards."""
        return [self._keys.root(lane, shard) for shard in range(self._keys.shards)]

    def _by_root(self, lane: str, tokens: Iterable[bytes]) -> dict[str, list[bytes]]:
        grouped: dict[str, list[bytes]] = {}
        for raw in tokens:
            grouped.setdefault(self._root(lane, raw), []).append(raw)
        return grouped

    def _on_queue(self, verb: str, lane: str, account: str | None, *arguments: Argument) -> Any:
        """The answer of a script whose first argument is the tenant queue's token."""
        raw = token(account)
        return self._server.run(script(verb), self._root(lane, raw), raw, *arguments)

    def _on_shards(self, verb: str, lane: str, *arguments: Argument) -> Iterator[Any]:
        """The answers of a script on each shard."""
        for root in self._roots(lane):
            yield self._server.run(script(verb), root, *arguments)
