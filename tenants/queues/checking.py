"""Administration: checks of live lanes, which repair tenant queues whose keys were lost or disagree.

A server that evicts keys, a partial restore or a person with a console can remove or replace any single key. Then no
script raises an error; it records the queue as damaged. The check repairs the queue from the keys that are left: the
entries are the messages, and each entry must be in exactly one place. It cannot restore lost messages; `missing` names
them to a caller that has them elsewhere.

Invariants: a violation is named only by the script that repairs it; each call is one bounded script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .descriptions import Violation
from .keys import LANE_KEYS, QUEUE_KEYS, account_of, token
from .lane_calls import LaneCalls
from .lua import script

#: Tenant queues, leases or buried messages of one script; entries of one queue; entries that a caller asks for.
_CHECKED_AT_ONCE = 50
_ENTRIES_AT_ONCE = 500
_ASKED_AT_ONCE = 200
_SCANNED_AT_ONCE = 1000
#: The parts of a check, in this order.
_CHECKED = ("damaged", "lane", "leases", "queues", "buried", "totals")

#: Shard, part, where to continue in it, and the tokens whose entries are still to be checked.
CheckPosition = tuple[int, str, bytes, tuple[bytes, ...]]
_START: CheckPosition = (0, _CHECKED[0], b"", ())


class Checks(LaneCalls):
    """The checks of a namespace's lanes. Every method may raise Dramatiq's `ConnectionClosed`."""

    def check(self, lane: str) -> list[Violation]:
        """Checks every tenant queue and lease of a live lane, in pages, and repairs what it names.

        It reads the names of all keys of the server once, to find tenant queues that no list names.
        """
        self._known.make_known(lane)
        found: list[Violation] = []
        for shard in range(self._keys.shards):
            for tokens in self._unnamed(lane, shard):
                violations, _, large = self._check(lane, shard, "tokens", b"", *tokens)
                found.extend(violations)
                found.extend(self._check_entries(lane, shard, large))
        position: CheckPosition | None = _START
        while position is not None:
            violations, position = self.check_page(lane, position)
            found.extend(violations)
        return found

    def check_page(
        self, lane: str, position: CheckPosition | None = None
    ) -> tuple[list[Violation], CheckPosition | None]:
        """A page of `check`, from the position that the page before returned; None after the last page."""
        shard, what, go_on, large = position or _START
        if large:
            kind, _, cursor = go_on.partition(b"|")
            violations, following, _ = self._check(lane, shard, "entries", kind, large[0])
            if following:
                return violations, (shard, what, following + b"|" + cursor, large)
            if large[1:]:
                return violations, (shard, what, _FIRST_ENTRIES + b"|" + cursor, large[1:])
            go_on = cursor
        else:
            violations, go_on, large = self._check(lane, shard, what, go_on)
            if large:
                return violations, (shard, what, _FIRST_ENTRIES + b"|" + go_on, large)
        if go_on:
            return violations, (shard, what, go_on, ())
        if what != _CHECKED[-1]:
            return violations, (shard, _CHECKED[_CHECKED.index(what) + 1], b"", ())
        following_shard = shard + 1
        return violations, (following_shard, _CHECKED[0], b"", ()) if following_shard < self._keys.shards else None

    def check_damaged(self, lane: str) -> list[Violation]:
        """Repairs tenant queues that a script has recorded as damaged, a bounded number at a time."""
        found: list[Violation] = []
        for shard in range(self._keys.shards):
            violations, _, large = self._check(lane, shard, "damaged", b"")
            found.extend(violations)
            found.extend(self._check_entries(lane, shard, large))
        return found

    def missing(
        self, lane: str, entries: Iterable[tuple[str | None, str]]
    ) -> tuple[list[tuple[str | None, str]], list[Violation]]:
        """Which of these (account, entry id) the lane does not hold, for a caller that can send them again.

        Their tenant queues and the entries that are there are repaired if needed.
        """
        by_root: dict[str, list[tuple[str | None, str]]] = {}
        for account, entry_id in entries:
            by_root.setdefault(self._root(lane, token(account)), []).append((account, entry_id))
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

    def _check(
        self, lane: str, shard: int, what: str, go_on: bytes, *tokens: bytes
    ) -> tuple[list[Violation], bytes, tuple[bytes, ...]]:
        number = _ENTRIES_AT_ONCE if what == "entries" else _CHECKED_AT_ONCE
        root = self._keys.root(lane, shard)
        answer = self._server.run(script("check"), root, what, go_on, number, self._lease_ms, *tokens)
        return list(_violations(lane, answer[2:])), answer[0], tuple(answer[1])

    def _check_entries(self, lane: str, shard: int, tokens: Sequence[bytes]) -> Iterator[Violation]:
        for each in tokens:
            go_on = _FIRST_ENTRIES
            while go_on:
                violations, go_on, _ = self._check(lane, shard, "entries", go_on, each)
                yield from violations

    def _unnamed(self, lane: str, shard: int) -> Iterator[list[bytes]]:
        """Tokens of the lane's keys that are not among its names. Reads the names of all keys of the server."""
        root = self._keys.root(lane, shard)
        node = self._server.at(root)
        prefixes = [(root + suffix).encode() for suffix, _ in QUEUE_KEYS.values()]
        names = root + LANE_KEYS["names"][0]
        for keys in node.scan_keys(f"{root}:*", _SCANNED_AT_ONCE):
            tokens = sorted({key[len(each) :] for key in keys for each in prefixes if key.startswith(each)})
            for start in range(0, len(tokens), _CHECKED_AT_ONCE):
                part = tokens[start : start + _CHECKED_AT_ONCE]
                # If `names` has another type, the check of the lane's own keys repairs it.
                scores = node.command("ZMSCORE", names, *part)
                unnamed = [each for each, score in zip(part, scores, strict=True) if score is None]
                if unnamed:
                    yield unnamed


_FIRST_ENTRIES = b"waiting:0"


def _violations(lane: str, answer: Iterable[Any]) -> Iterator[Violation]:
    for kind, raw, detail in answer:
        yield Violation(lane, kind.decode(), account_of(raw), detail.decode("utf-8", "replace"))
