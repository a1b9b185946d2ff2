"""Checks of live lanes: tenant queues whose keys were lost or do not agree are repaired from the keys that are left.

A server that evicts keys, a partial restore or a person with a console can take or replace any single key. No script
raises an error then; it notes the queue as damaged. The check repairs it: the entries are the messages, and each must
stand in one place. Bytes that are lost cannot be brought back here: `missing` names them to whoever has them elsewhere.

Invariants: a violation is named only by the script that repairs it; each call is one bounded script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .descriptions import Violation
from .keys import QUEUE_KEYS, Keys, account_of, shard_of, token
from .known_lanes import KnownLanes
from .lua import script
from .server import Argument, Server

#: Tenant queues, leases or burials that one script looks at; entries of one queue; entries that are asked for.
_CHECKED_AT_ONCE = 50
_ENTRIES_AT_ONCE = 500
_ASKED_AT_ONCE = 200
_SCANNED_AT_ONCE = 1000
#: What a pass goes through, in this order.
_CHECKED = ("damaged", "lane", "leases", "queues", "buried", "totals")

#: Shard, what of it, where to go on, and the tokens whose entries are still to be looked at.
CheckPosition = tuple[int, str, bytes, tuple[bytes, ...]]
_START: CheckPosition = (0, _CHECKED[0], b"", ())


class Checks:
    """The checks of a namespace's lanes. Every method may raise Dramatiq's `ConnectionClosed`."""

    def __init__(self, server: Server, keys: Keys, known: KnownLanes, lease_seconds: float) -> None:
        self._server = server
        self._keys = keys
        self._known = known
        self._lease_ms = round(lease_seconds * 1000)

    def check(self, lane: str) -> list[Violation]:
        """All of a lane, also tenant queues that no list names any more."""
        self._known.make_known(lane)
        found: list[Violation] = []
        for shard in range(self._keys.shards):
            for tokens in self._unnamed(lane, shard):
                violations, _, large = self._run(lane, shard, "tokens", b"", *tokens)
                found.extend(violations)
                found.extend(self._entries(lane, shard, large))
        position: CheckPosition | None = _START
        while position is not None:
            violations, position = self.page(lane, position)
            found.extend(violations)
        return found

    def page(self, lane: str, position: CheckPosition | None) -> tuple[list[Violation], CheckPosition | None]:
        """A part of `check`, from a position that the part before gave; None after the last one."""
        shard, what, go_on, large = position or _START
        if large:
            kind, _, cursor = go_on.partition(b"|")
            violations, following, _ = self._run(lane, shard, "entries", kind, large[0])
            if following:
                return violations, (shard, what, following + b"|" + cursor, large)
            if large[1:]:
                return violations, (shard, what, _FIRST_ENTRIES + b"|" + cursor, large[1:])
            go_on = cursor
        else:
            violations, go_on, large = self._run(lane, shard, what, go_on)
            if large:
                return violations, (shard, what, _FIRST_ENTRIES + b"|" + go_on, large)
        if go_on:
            return violations, (shard, what, go_on, ())
        if what != _CHECKED[-1]:
            return violations, (shard, _CHECKED[_CHECKED.index(what) + 1], b"", ())
        following_shard = shard + 1
        return violations, (following_shard, _CHECKED[0], b"", ()) if following_shard < self._keys.shards else None

    def damaged(self, lane: str) -> list[Violation]:
        """The tenant queues that a script has found damaged, some at a time."""
        found: list[Violation] = []
        for shard in range(self._keys.shards):
            violations, _, large = self._run(lane, shard, "damaged", b"")
            found.extend(violations)
            found.extend(self._entries(lane, shard, large))
        return found

    def missing(
        self, lane: str, entries: Iterable[tuple[str | None, str]]
    ) -> tuple[list[tuple[str | None, str]], list[Violation]]:
        """Which of these (account, entry id) the lane does not hold; what it holds is repaired where it must be."""
        by_root: dict[str, list[tuple[str | None, str]]] = {}
        for account, entry_id in entries:
            root = self._keys.root(lane, shard_of(token(account), self._keys.shards))
            by_root.setdefault(root, []).append((account, entry_id))
        missing: list[tuple[str | None, str]] = []
        found: list[Violation] = []
        for root, members in by_root.items():
            for start in range(0, len(members), _ASKED_AT_ONCE):
                asked = members[start : start + _ASKED_AT_ONCE]
                named = [part for account, entry_id in asked for part in (token(account), entry_id)]
                positions, *violations = self._server.run(script("missing"), root, self._lease_ms, *named)
                missing.extend(asked[position] for position in positions)
                found.extend(_violations(lane, violations))
        return missing, found

    def _run(
        self, lane: str, shard: int, what: str, go_on: bytes, *tokens: bytes
    ) -> tuple[list[Violation], bytes, tuple[bytes, ...]]:
        number = _ENTRIES_AT_ONCE if what == "entries" else _CHECKED_AT_ONCE
        root = self._keys.root(lane, shard)
        answer = self._server.run(script("check"), root, what, go_on, number, self._lease_ms, *tokens)
        return list(_violations(lane, answer[2:])), answer[0], tuple(answer[1])

    def _entries(self, lane: str, shard: int, tokens: Sequence[bytes]) -> Iterator[Violation]:
        for each in tokens:
            go_on = _FIRST_ENTRIES
            while go_on:
                violations, go_on, _ = self._run(lane, shard, "entries", go_on, each)
                yield from violations

    def _unnamed(self, lane: str, shard: int) -> Iterator[list[bytes]]:
        """Tokens of keys of the lane that do not stand among its names; goes through all keys of the server."""
        root = self._keys.root(lane, shard)
        node = self._server.at(root)
        beginnings = [(root + suffix).encode() for suffix, _ in QUEUE_KEYS.values()]
        names = (root + ":names").encode()
        cursor: Argument = 0
        while True:
            cursor, keys = node.command("SCAN", cursor, "MATCH", f"{root}:*", "COUNT", _SCANNED_AT_ONCE)
            tokens = sorted({key[len(each) :] for key in keys for each in beginnings if key.startswith(each)})
            for start in range(0, len(tokens), _CHECKED_AT_ONCE):
                part = tokens[start : start + _CHECKED_AT_ONCE]
                # A key of another type at that name is repaired by the check of the lane's own keys.
                scores = node.command("ZMSCORE", names, *part)
                unnamed = [each for each, score in zip(part, scores, strict=True) if score is None]
                if unnamed:
                    yield unnamed
            if int(cursor) == 0:
                return


_FIRST_ENTRIES = b"waiting:0"


def _violations(lane: str, answer: Iterable[Any]) -> Iterator[Violation]:
    for kind, raw, detail in answer:
        yield Violation(lane, kind.decode(), account_of(raw), detail.decode("utf-8", "replace"))
