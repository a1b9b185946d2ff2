"""Administration, read-only: describe and list tenant queues, and say what they hold and why an entry waits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from .descriptions import (
    HeldEntries,
    HeldLease,
    LaneTotals,
    QueueDescription,
    Reason,
    decode_description,
    decode_reasons,
    settings_of,
)
from .errors import InvalidEntry
from .keys import account_of, token
from .lane_calls import LaneCalls
from .limits import FOR_GOOD
from .lua import script
from .server import Call

#: Tenant queues of one page, and pages that one call of `list_queues` reads.
_PAGE = 500
_MOST_PAGES = 100
#: Entry ids in one script call, script calls in one round trip.
_ASKED_AT_ONCE = 500
_CALLS_AT_ONCE = 500
#: Entries of a tenant queue in one page, tenant queues in one round trip.
_ENTRIES_AT_ONCE = 500
_QUEUES_AT_ONCE = 50


class QueueViews(LaneCalls):
    """What tenant queues hold."""

    def describe(self, lane: str, account: str | None) -> QueueDescription | None:
        """The tenant queue; None if it has neither state nor settings."""
        return self._describe(lane, [token(account)])[0]

    def list_queues(
        self,
        lane: str | None = None,
        *,
        account: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        idle_longer_than: float | None = None,
    ) -> tuple[list[QueueDescription], str | None]:
        """A page of the tenant queues in the order of lane and account, and the cursor of the next page.

        `idle_longer_than` (seconds) selects those that are unused for as long. With it a page may have fewer than
        `limit` queues and still a cursor.

        Raises:
            InvalidEntry: the cursor is not one of ours.
        """
        lanes = [lane] if lane is not None else self.lanes()
        if account is not None:
            found = [self.describe(each, account) for each in lanes]
            now = datetime.now(UTC)
            return [each for each in found if each is not None and _is_idle(each, idle_longer_than, now)], None
        start = _decode_cursor(cursor)
        out: list[QueueDescription] = []
        pages = 0
        for each, shard in ((each, shard) for each in lanes for shard in range(self._keys.shards)):
            if (each, shard) < start[:2]:
                continue
            last = start[2] if (each, shard) == start[:2] else b""
            while True:
                size = limit - len(out) if idle_longer_than is None else _PAGE
                names = self._names(each, shard, last, size)
                pages += 1
                for name, queue in zip(names, self._describe(each, names), strict=True):
                    last = name
                    if queue is not None and _is_idle(queue, idle_longer_than, datetime.now(UTC)):
                        out.append(queue)
                        if len(out) >= limit:
                            return out, _encode_cursor(each, shard, last)
                if len(names) < size:
                    break
                if pages >= _MOST_PAGES:
                    return out, _encode_cursor(each, shard, last)
        return out, None

    def position(self, lane: str, account: str | None, entry_id: str) -> int | None:
        """How many entries of the queue come first; 0 is next; None if the entry does not wait."""
        place: int | None = self._on_queue("position", lane, account, entry_id)
        return place

    def contains(self, lane: str, account: str | None, entry_ids: Iterable[str]) -> set[str]:
        """Which of the entries the server holds: waiting, delayed or leased."""
        return self.contains_many(lane, ((account, entry_id) for entry_id in entry_ids))[account]

    def contains_many(self, lane: str, entries: Iterable[tuple[str | None, str]]) -> dict[str | None, set[str]]:
        """The same for (account, entry id) pairs of many accounts, in a few round trips."""
        by_account: dict[str | None, list[str]] = {}
        for account, entry_id in entries:
            by_account.setdefault(account, []).append(entry_id)
        asked = [
            (account, ids[start : start + _ASKED_AT_ONCE])
            for account, ids in by_account.items()
            for start in range(0, len(ids), _ASKED_AT_ONCE)
        ]
        calls = [
            Call(script("contains"), self._root(lane, token(account)), (token(account), *ids)) for account, ids in asked
        ]
        held = _HeldByAccount((account, set()) for account in by_account)
        answers = self._server.run_all(calls, _CALLS_AT_ONCE)
        for (account, ids), answer in zip(asked, answers, strict=True):
            held[account].update(each for each, is_held in zip(ids, answer, strict=True) if is_held)
        return held

    def totals(self, lane: str) -> LaneTotals:
        """The lane's totals, in constant time."""
        answers = list(self._on_shards("totals", lane))
        waiting, delayed, active, ready, queues, idle = (sum(answer[at] for answer in answers) for at in range(1, 7))
        waits = [max(0.0, (answer[0] - float(answer[7])) / 1000) for answer in answers if float(answer[7])]
        pauses = [(answer[0], int(float(answer[8]))) for answer in answers]
        return LaneTotals(
            waiting=waiting,
            delayed=delayed,
            active=active,
            ready=ready,
            queues=queues,
            idle=idle,
            oldest_wait=max(waits, default=None),
            paused=any(until == FOR_GOOD or until > now for now, until in pauses),
            global_concurrency=sum(answer[9] for answer in answers) or None,
            buried=sum(answer[10] for answer in answers),
            started=sum(answer[11] for answer in answers),
            dwelt_seconds=sum(answer[12] for answer in answers) / 1000,
        )

    def explain(self, lane: str, account: str | None, entry_id: str) -> list[Reason]:
        """All reasons why an entry does not run now; none once it runs, or if the queue does not hold it."""
        raw = token(account)
        root = self._root(lane, raw)
        calls = [Call(script("explain"), root, (raw, entry_id)), Call(script("describe"), root, (raw,))]
        reasons, described = self._server.run_all(calls, len(calls))
        return decode_reasons(reasons, settings_of(described[2]))

    def entries(self, lane: str) -> Iterator[HeldEntries]:
        """Everything that the lane holds, by tenant queue, in pages. Entries that move meanwhile may be missed."""
        for shard, root in enumerate(self._roots(lane)):
            last = b""
            while names := self._names(lane, shard, last, _PAGE):
                last = names[-1]
                for start in range(0, len(names), _QUEUES_AT_ONCE):
                    yield from self._entries(root, lane, names[start : start + _QUEUES_AT_ONCE])
                if len(names) < _PAGE:
                    break

    def _entries(self, root: str, lane: str, names: Sequence[bytes]) -> Iterator[HeldEntries]:
        skipped = 0
        while names:
            calls = [Call(script("entries"), root, (name, skipped, _ENTRIES_AT_ONCE)) for name in names]
            more = []
            for name, (ids, leases) in zip(names, self._server.run_all(calls, len(calls)), strict=True):
                held = tuple(
                    HeldLease(int(slot), int(epoch), worker.decode(), entry_id.decode())
                    for slot, epoch, worker, entry_id in leases
                )
                if ids or held:
                    yield HeldEntries(lane, account_of(name), tuple(each.decode() for each in ids), held)
                if len(ids) == _ENTRIES_AT_ONCE:
                    more.append(name)
            names, skipped = more, skipped + _ENTRIES_AT_ONCE

    def traces(self, lane: str, account: str | None) -> list[str]:
        """The kinds of keys that still have something of the tenant queue, settings too; empty: as if never used.

        Buried messages are not included; see `buried`.
        """
        return [name.decode() for name in self._on_queue("traces", lane, account)]

    def _names(self, lane: str, shard: int, after: bytes, size: int) -> list[bytes]:
        names: list[bytes] = self._server.run(script("names"), self._keys.root(lane, shard), after, size)
        return names

    def _describe(self, lane: str, tokens: Sequence[bytes]) -> list[QueueDescription | None]:
        found: dict[bytes, QueueDescription | None] = {}
        for root, members in self._by_root(lane, tokens).items():
            answer = self._server.run(script("describe"), root, *members)
            lane_paused = int(float(answer[1]))
            for raw, fields in zip(members, answer[2:], strict=True):
                found[raw] = None if not fields else decode_description(lane, raw, answer[0], lane_paused, fields)
        return [found[raw] for raw in tokens]


class _HeldByAccount(dict[str | None, set[str]]):
    """Held entries by account; an account that was not asked for holds none."""

    def __missing__(self, account: str | None) -> set[str]:
        return set()


def _is_idle(queue: QueueDescription, seconds: float | None, now: datetime) -> bool:
    return seconds is None or (now - queue.last_used_at).total_seconds() >= seconds


def _encode_cursor(lane: str, shard: int, after: bytes) -> str:
    return base64.urlsafe_b64encode(f"{lane}/{shard}/".encode() + after).decode()


def _decode_cursor(cursor: str | None) -> tuple[str, int, bytes]:
    if cursor is None:
        return "", 0, b""
    try:
        lane, shard, after = base64.urlsafe_b64decode(cursor.encode()).split(b"/", 2)
        return lane.decode(), int(shard), after
    except (ValueError, UnicodeError, binascii.Error) as error:
        raise InvalidEntry("cursor: it is not one that this list gave") from error
