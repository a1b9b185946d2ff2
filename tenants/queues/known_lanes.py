"""The set of lanes, and the accounts that are paused on all lanes, also on future ones.

A script works on one lane, so each lane's settings have the pauses of its accounts. Account pauses are also kept beside
the set of lanes, and the process that registers a lane copies them to its settings.

Invariants: a lane is in the set before its first message or setting; when a lane is registered, nothing of a paused
account starts there, and no pause is left of an account that is resumed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from dramatiq.errors import BrokerConnectionError

from .keys import Keys, shard_of
from .limits import FOR_GOOD, RUNNING
from .lua import script
from .server import Argument, Call, Server

#: Queues in one script call, so that other clients' calls run in between.
_CONFIGURED_AT_ONCE = 100
_SENT_AT_ONCE = 20
_SCANNED_AT_ONCE = 500
#: A pause is dropped so long after its end by this machine's clock. Until then it is copied, and has no effect.
_ENDED_MS = 86_400_000


class KnownLanes:
    """The lanes of a namespace. Thread-safe."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self._seen: set[str] = set()

    def all(self) -> set[str]:
        """Every lane that has ever had a message or a setting."""
        return {raw.decode() for raw in self._server.command("SMEMBERS", self._keys.lanes)}

    def make_known_once(self, lane: str) -> None:
        """As `make_known`, but asks the server only the first time. For the path of messages.

        On a cluster the set can be on another node than the lane. If that node does not answer, this does nothing.
        """
        if lane in self._seen:
            return
        try:
            self.make_known(lane)
        except BrokerConnectionError:
            if not self._server.clustered:
                raise

    def make_known(self, lane: str) -> None:
        """Adds the lane to the set and, if it is new, copies the accounts' pauses to its settings.

        Raises:
            dramatiq.errors.ConnectionClosed: the server cannot be reached.
        """
        if not self._server.command("SISMEMBER", self._keys.lanes, lane):
            self._make_new(lane)
        self._seen.add(lane)

    def _make_new(self, lane: str) -> None:
        applied: dict[bytes, int] = {}
        is_in_set = False
        while True:
            # A caller that pauses or resumes writes here first and reads the set of lanes afterwards. So this loop
            # applies what was written before its last read, and that caller finds the lane for what comes later.
            wanted = dict(self._paused())
            if is_in_set and wanted == applied:
                return
            changes: dict[int, list[bytes]] = {}
            for raw in applied.keys() | wanted.keys():
                until = wanted.get(raw, RUNNING)
                if until != applied.get(raw, RUNNING):
                    changes.setdefault(until, []).append(raw)
            for until, tokens in changes.items():
                configure(self._server, self._keys, lane, tokens, "account_paused", until)
            applied = wanted
            if not is_in_set:
                self._server.command("SADD", self._keys.lanes, lane)
                is_in_set = True

    def pause(self, raw: bytes, until: int) -> None:
        """Keeps the pause of an account (by its token) for future lanes; `until` as in `until_ms`."""
        ended = round(datetime.now(UTC).timestamp() * 1000) - _ENDED_MS
        self._server.command("ZREMRANGEBYSCORE", self._keys.paused_accounts, 0, ended)
        self._server.command("ZADD", self._keys.paused_accounts, "+inf" if until == FOR_GOOD else until, raw)

    def resume(self, raw: bytes) -> None:
        """Deletes the kept pause."""
        self._server.command("ZREM", self._keys.paused_accounts, raw)

    def _paused(self) -> Iterator[tuple[bytes, int]]:
        for found in self._server.scan("ZSCAN", self._keys.paused_accounts, _SCANNED_AT_ONCE):
            for raw, score in zip(found[::2], found[1::2], strict=True):
                until = float(score)
                yield raw, FOR_GOOD if until == float("inf") else int(until)


def configure(server: Server, keys: Keys, lane: str, tokens: Iterable[bytes], what: str, value: Argument) -> None:
    """Changes one setting of many tenant queues, in a few round trips.

    Raises:
        dramatiq.errors.ConnectionClosed: the server cannot be reached; some may have been changed.
    """
    by_root: dict[str, list[bytes]] = {}
    for raw in tokens:
        by_root.setdefault(keys.root(lane, shard_of(raw, keys.shards)), []).append(raw)
    calls = [
        Call(script("configure"), root, (what, value, *members[start : start + _CONFIGURED_AT_ONCE]))
        for root, members in by_root.items()
        for start in range(0, len(members), _CONFIGURED_AT_ONCE)
    ]
    for _ in server.run_all(calls, _SENT_AT_ONCE):
        pass
