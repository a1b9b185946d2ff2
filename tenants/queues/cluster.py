"""A cluster: one `Server` for each node, and the map of hash slots to nodes.

All keys of a lane (or of a lane's shard) have one hash tag, so a script runs on one node. Any node can give the map. It
is read again after a node reports that a slot has moved, and after a node does not answer.

Invariants: a call that a node refused with MOVED was not run, and is sent to the other node; a call whose answer was
lost is never sent again here; ASK is not followed, because the target of a moving slot treats keys that have not yet
arrived as missing. Such a lane waits until its slot has arrived, as for a server that does not answer.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import dramatiq.errors
import redis
import redis.exceptions
from redis.crc import key_slot

from .errors import InvalidEntry, SlotMoved, to_dramatiq
from .lua import Script
from .server import Argument, Call, Server, ServerInfo, with_time_limits
from .urls import at_host, is_cluster_url, node_urls

_MOST_MOVES = 5
#: The shortest time between two readings of the map.
_READ_MAP_SECONDS = 0.2

Address = tuple[str, int]


class ClusterServer(Server):
    """The nodes of a cluster as one `Server`; `take`, `keep` and `drop` belong to its nodes (see `at`)."""

    def __init__(self, url: str, parameters: dict[str, Any]) -> None:
        urls = node_urls(url)
        self._url = urls[0]
        self._parameters = parameters
        self._seeds = [_address(each) for each in urls]
        #: Every node that was ever known.
        self.nodes: dict[Address, Server] = {}
        self._holders: list[Address | None] = []
        self._mutex = threading.Lock()
        self._map_read_at = float("-inf")
        self._map_is_doubtful = True
        self._slots: dict[str, int] = {}
        self.clustered = True
        super().__init__(self._node(self._seeds[0])._pool, clustered=True)

    @property
    def address(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self._seeds)

    @property
    def connections(self) -> int:
        return sum(node.connections for node in list(self.nodes.values()))

    def at(self, key: str) -> Server:
        """The node that is known to hold the key.

        Raises:
            dramatiq.errors.ConnectionClosed: no node answers, or none holds the slot.
        """
        if self._map_is_doubtful:
            self._read_map()
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = key_slot(key.encode())
        holder = self._holders[slot] if self._holders else None
        if holder is None:
            self._map_is_doubtful = True
            raise _closed(f"no node of the cluster holds slot {slot} of {key!r}")
        return self._node(holder)

    def distrust(self) -> None:
        self._map_is_doubtful = True

    def failure(self, error: redis.RedisError | OSError) -> Exception:
        self._map_is_doubtful = True
        if isinstance(error, redis.exceptions.MovedError):
            return _closed(f"MOVED {error}")
        return to_dramatiq(error)

    def run(self, script: Script, root: str, *arguments: Argument) -> Any:
        self._prepare()
        return self._following(root, lambda node: node.run(script, root, *arguments))

    def command(self, *arguments: Argument) -> Any:
        """The answer of a plain command whose first argument is its key."""
        return self._following(str(arguments[1]), lambda node: node.command(*arguments))

    def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """As on one server. If a node does not answer, only its own calls fail."""
        self._prepare()
        answers: list[Any] = [None] * len(calls)
        by_node: dict[Server, list[int]] = {}
        for position, call in enumerate(calls):
            try:
                by_node.setdefault(self.at(call.root), []).append(position)
            except dramatiq.errors.ConnectionClosed as error:
                answers[position] = error
        for node, positions in by_node.items():
            try:
                found = node.run_many([calls[position] for position in positions])
            except dramatiq.errors.ConnectionClosed as error:
                self._map_is_doubtful = True
                found = [error] * len(positions)
            for position, answer in zip(positions, found, strict=True):
                answers[position] = answer
        for position, call in enumerate(calls):
            if isinstance(answers[position], SlotMoved):
                answers[position] = self.run(call.script, call.root, *call.arguments)
        return answers

    def check(self) -> ServerInfo:
        """As on one server. The `run_id` is made of all primaries', so it changes with each restart and failover."""
        infos = [node.check() for node in self._primaries()]
        together = ",".join(sorted(info.run_id for info in infos))
        run_id = hashlib.sha1(together.encode(), usedforsecurity=False).hexdigest()
        return ServerInfo(version=infos[0].version, run_id=run_id, flavour=infos[0].flavour)

    def _memory_policies(self) -> list[str]:
        return [policy for node in self._primaries() for policy in node._memory_policies()]

    def close(self) -> None:
        for node in list(self.nodes.values()):
            node.close()

    def _following(self, key: str, call: Any) -> Any:
        for _ in range(_MOST_MOVES):
            try:
                return call(self.at(key))
            except SlotMoved as moved:
                # The node's answer is newer than the map, and newer than what a third node may know.
                if moved.holder[0]:
                    self._holders[moved.slot] = moved.holder
                else:
                    self._map_is_doubtful = True
            except dramatiq.errors.ConnectionClosed:
                self._map_is_doubtful = True
                raise
        raise _closed(f"{key!r}: each node names another one as the holder of its slot")

    def _node(self, address: Address) -> Server:
        node = self.nodes.get(address)
        if node is None:
            pool = redis.ConnectionPool.from_url(at_host(self._url, *address), **self._parameters)
            node = self.nodes.setdefault(address, Server(pool, clustered=True))
        return node

    def _primaries(self) -> list[Server]:
        self._read_map()
        return [self._node(address) for address in sorted({each for each in self._holders if each is not None})]

    def _read_map(self) -> None:
        with self._mutex:
            if time.monotonic() - self._map_read_at < _READ_MAP_SECONDS and self._holders:
                return
            failure: Exception | None = None
            for address in self._nodes_to_ask():
                try:
                    ranges = self._node(address).command("CLUSTER", "SLOTS")
                except Exception as error:
                    failure = error
                    continue
                self._holders = _holders(ranges, address[0])
                self._map_read_at = time.monotonic()
                self._map_is_doubtful = False
                return
            raise _closed(f"no node of the cluster at {self.address} answers: {failure}")

    def _nodes_to_ask(self) -> Iterator[Address]:
        """The nodes to ask for the map: those that hold slots first, then all others that were ever known."""
        known = {each for each in self._holders if each is not None}
        yield from sorted(known)
        yield from (each for each in [*self._seeds, *self.nodes] if each not in known)


def connect(url: str | None, client: redis.Redis | None, parameters: dict[str, Any]) -> Server:
    """The server or the cluster of the URL or client."""
    if client is None and url is not None and is_cluster_url(url):
        return ClusterServer(url, with_time_limits(parameters))
    return Server.connect(url, client, parameters)


def _holders(ranges: list[list[Any]], asked: str) -> list[Address | None]:
    """Slot → address of its primary, from the answer of CLUSTER SLOTS."""
    found: list[Address | None] = [None] * 16384
    for first, last, primary, *_ in ranges:
        # A node that does not know its own address leaves it empty: then it is the address that was asked.
        address = (primary[0].decode() if primary[0] else asked, int(primary[1]))
        for slot in range(first, last + 1):
            found[slot] = address
    return found


def _address(url: str) -> Address:
    parts = urlsplit(url)
    if parts.hostname is None:
        raise InvalidEntry("url: it names no host")
    return parts.hostname, parts.port or 6379


def _closed(message: str) -> dramatiq.errors.ConnectionClosed:
    closed: dramatiq.errors.ConnectionClosed = dramatiq.errors.ConnectionClosed(message)  # type: ignore[no-untyped-call]
    return closed
