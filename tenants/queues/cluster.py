"""A cluster: a `Server` a node, and the map that says which node holds which hash slot.

All keys of a lane (of a lane's shard) carry one hash tag, so a script goes to one node. The map is learnt from any node
that answers, anew when a node says that a slot has moved and when one does not serve.

Invariants: a call that a node refused with MOVED was not run and is sent on; a call whose answer was lost is never
sent again from here; ASK is not followed, because the target of a slot that is still moving takes keys that have not
come yet for missing ones. Such a lane waits, as for a server that is away, until its slot has arrived.
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
#: The map is asked for at most this often while nodes do not serve.
_LEARN_SECONDS = 0.2

Address = tuple[str, int]


class ClusterServer(Server):
    """The nodes of a cluster as one `Server`; `take`, `keep` and `drop` belong to its nodes (see `at`)."""

    def __init__(self, url: str, parameters: dict[str, Any]) -> None:
        urls = node_urls(url)
        self._url = urls[0]
        self._parameters = parameters
        self._seeds = [_address(each) for each in urls]
        self._nodes: dict[Address, Server] = {}
        self._holders: list[Address | None] = []
        self._mutex = threading.Lock()
        self._learnt_at = float("-inf")
        self._doubtful = True
        self._slots: dict[str, int] = {}
        self.clustered = True
        super().__init__(self._node(self._seeds[0])._pool, clustered=True)

    @property
    def address(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self._seeds)

    @property
    def connections(self) -> int:
        return sum(node.connections for node in list(self._nodes.values()))

    def at(self, key: str) -> Server:
        """The node that is known to hold the key.

        Raises:
            dramatiq.errors.ConnectionClosed: nobody tells, or nobody holds it.
        """
        if self._doubtful:
            self._learn()
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = key_slot(key.encode())
        holder = self._holders[slot] if self._holders else None
        if holder is None:
            self._doubtful = True
            raise _closed(f"no node of the cluster holds slot {slot} of {key!r}")
        return self._node(holder)

    def distrust(self) -> None:
        self._doubtful = True

    def failure(self, error: redis.RedisError | OSError) -> Exception:
        self._doubtful = True
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
        """As on one server; a node that does not serve costs only its own calls."""
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
                self._doubtful = True
                found = [error] * len(positions)
            for position, answer in zip(positions, found, strict=True):
                answers[position] = answer
        for position, call in enumerate(calls):
            if isinstance(answers[position], SlotMoved):
                answers[position] = self.run(call.script, call.root, *call.arguments)
        return answers

    def check(self) -> ServerInfo:
        """What answers; its `run_id` is made of all primaries', so it changes with each restart and failover."""
        infos = [node.check() for node in self._primaries()]
        together = ",".join(sorted(info.run_id for info in infos))
        run_id = hashlib.sha1(together.encode(), usedforsecurity=False).hexdigest()
        return ServerInfo(version=infos[0].version, run_id=run_id, flavour=infos[0].flavour)

    def _memory_policies(self) -> list[str]:
        return [policy for node in self._primaries() for policy in node._memory_policies()]

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def _following(self, key: str, call: Any) -> Any:
        for _ in range(_MOST_MOVES):
            try:
                return call(self.at(key))
            except SlotMoved as moved:
                # Who was asked knows better than the map, and than a third node that has not heard of it yet.
                if moved.holder[0]:
                    self._holders[moved.slot] = moved.holder
                else:
                    self._doubtful = True
            except dramatiq.errors.ConnectionClosed:
                self._doubtful = True
                raise
        raise _closed(f"{key!r} is sent from node to node")

    def _node(self, address: Address) -> Server:
        node = self._nodes.get(address)
        if node is None:
            pool = redis.ConnectionPool.from_url(at_host(self._url, *address), **self._parameters)
            node = self._nodes.setdefault(address, Server(pool, clustered=True))
        return node

    def _primaries(self) -> list[Server]:
        self._learn()
        return [self._node(address) for address in sorted({each for each in self._holders if each is not None})]

    def _learn(self) -> None:
        with self._mutex:
            if time.monotonic() - self._learnt_at < _LEARN_SECONDS and self._holders:
                return
            failure: Exception | None = None
            for address in self._asked():
                try:
                    ranges = self._node(address).command("CLUSTER", "SLOTS")
                except Exception as error:
                    failure = error
                    continue
                self._holders = _holders(ranges, address[0])
                self._learnt_at = time.monotonic()
                self._doubtful = False
                return
            raise _closed(f"no node of the cluster at {self.address} answers: {failure}")

    def _asked(self) -> Iterator[Address]:
        """Whom to ask: every node ever known, those that hold slots now first."""
        known = {each for each in self._holders if each is not None}
        yield from sorted(known)
        yield from (each for each in [*self._seeds, *self._nodes] if each not in known)


def connect(url: str | None, client: redis.Redis | None, parameters: dict[str, Any]) -> Server:
    """The server, or the cluster, that the caller names."""
    if client is None and url is not None and is_cluster_url(url):
        return ClusterServer(url, with_time_limits(parameters))
    return Server.connect(url, client, parameters)


def _holders(ranges: list[list[Any]], asked: str) -> list[Address | None]:
    """Slot → address of its primary, from the answer of CLUSTER SLOTS."""
    found: list[Address | None] = [None] * 16384
    for first, last, primary, *_ in ranges:
        # A node that does not know its own address leaves it empty: it is where it was asked.
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
