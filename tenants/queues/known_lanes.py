"""Which lanes there are, and the accounts that are paused on all of them, also on those to come.

A script sees one lane, so the pause of an account stands in its settings on each. It is kept beside the set of lanes as
well, and whoever makes a lane known puts the pauses into its settings.

Invariants: a lane stands in the set before its first message or setting; of an account that is paused when a lane
becomes known nothing starts there, and of one that is resumed meanwhile no pause is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from dramatiq.errors import BrokerConnectionError

from .keys import Keys, shard_of
from .limits import FOR_GOOD, RUNNING
from .lua import script
from .server import Argument, Call, Server

# So many queues a script: others' calls come between two of them.
_CONFIGURED_AT_ONCE = 100
_SENT_AT_ONCE = 20
_SCANNED_AT_ONCE = 500
#: A pause that ended so long ago by this machine's clock is dropped; until then it is carried, and does nothing.
_ENDED_MS = 86_400_000


class KnownLanes:
    """The lanes of a namespace. Thread-safe."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self._seen: set[str] = set()

    def all(self) -> set[str]:
        """Every lane that ever had a message or a setting."""
        return {raw.decode() for raw in self._server.command("SMEMBERS", self._keys.lanes)}

    def make_known_once(self, lane: str) -> None:
        """As `make_known`, but asks the server only the first time. For the path of messages.

        On a cluster the set may be on another node than the lane; while that one does not serve, the lane goes without.
        """
        if lane in self._seen:
            return
        try:
            self.make_known(lane)
        except BrokerConnectionError:
            if not self._server.clustered:
                raise

    def make_known(self, lane: str) -> None:
        """Puts the lane into the set and, when it is new there, the accounts' pauses into its settings.

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
            # Who pauses or resumes writes here first and looks for lanes then. So whatever was written before the last
            # of these reads is applied by us, and whatever comes later is applied by him, who finds the lane.
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
        """Keeps the pause of an account (by its token) for lanes to come; `until` as in `until_ms`."""
        ended = round(datetime.now(UTC).timestamp() * 1000) - _ENDED_MS
        self._server.command("ZREMRANGEBYSCORE", self._keys.paused_accounts, 0, ended)
        self._server.command("ZADD", self._keys.paused_accounts, "+inf" if until == FOR_GOOD else until, raw)

    def resume(self, raw: bytes) -> None:
        """Forgets it."""
        self._server.command("ZREM", self._keys.paused_accounts, raw)

    def _paused(self) -> Iterator[tuple[bytes, int]]:
        cursor: Argument = 0
        while True:
            cursor, found = self._server.command("ZSCAN", self._keys.paused_accounts, cursor, "COUNT", _SCANNED_AT_ONCE)
            for raw, score in zip(found[::2], found[1::2], strict=True):
                until = float(score)
                yield raw, FOR_GOOD if until == float("inf") else int(until)
            if int(cursor) == 0:
                return


def configure(server: Server, keys: Keys, lane: str, tokens: Iterable[bytes], what: str, value: Argument) -> None:
    """Changes one setting of many tenant queues, in a few round trips.

    Raises:
        dramatiq.errors.ConnectionClosed: the server cannot be reached; some may have been changed.
    """
    by_root: dict[str, list[bytes]] = {}
    for raw in tokens:
        by_root.setdefault(keys.root(lane, shard_of(raw, keys.shards)), []).append(raw)
    calls: list[Call] = []
    for root, members in by_root.items():
        calls.extend(
            Call(script("configure"), root, (what, value, *members[start : start + _CONFIGURED_AT_ONCE]))
            for start in range(0, len(members), _CONFIGURED_AT_ONCE)
        )
    for answer in _run_in_turns(server, calls):
        if isinstance(answer, Exception):
            raise answer


def _run_in_turns(server: Server, calls: Sequence[Call]) -> Iterator[Any]:
    for start in range(0, len(calls), _SENT_AT_ONCE):
        yield from server.run_many(calls[start : start + _SENT_AT_ONCE])
