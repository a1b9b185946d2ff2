"""Administration of tenant queues: look, count, pause, limit, remove, reap.

Invariants: nothing here runs on the path of a message; each call is one bounded script a lane (or a page of one);
times leave as UTC datetimes made from the server's clock. One class, because it is the one object that callers hold.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from dramatiq.errors import BrokerConnectionError

from .checking import CheckPosition, Checks
from .descriptions import (
    AccountLoad,
    BuriedMessage,
    HeldEntries,
    HeldLease,
    LaneTotals,
    QueueDescription,
    Reason,
    Violation,
    decode_description,
    decode_grave,
    decode_reasons,
    settings_of,
)
from .errors import InvalidEntry
from .keys import LANE_KEYS, Keys, account_of, shard_of, token
from .known_lanes import KnownLanes, configure
from .limits import FOR_GOOD, RUNNING, QueueLimits, StoredSettings, until_ms
from .lua import script
from .server import Argument, Call, Server

_PAGE = 500
_MOST_PAGES = 100
_PURGED_AT_ONCE = 500
_PURGED_TOGETHER = 50
_ASKED_AT_ONCE = 500
# So many queues a script: others' calls come between two of them.
_SET_AT_ONCE = 100
# Of so many accounts of a lane the short backlogs are looked at one by one.
_MOST_SHORT_BACKLOGS = 1000
_LISTED_AT_ONCE = 500


class TenantQueues:
    """The tenant queues of a namespace. Thread-safe; every method may raise Dramatiq's `ConnectionClosed`."""

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
        self._checks = Checks(server, keys, known, lease_seconds)

    # -- looking

    def lanes(self) -> list[str]:
        """Every lane that was declared here or ever had a message, sorted."""
        return sorted(self._known.all() | set(self._declared()))

    def describe(self, lane: str, account: str | None) -> QueueDescription | None:
        """The tenant queue; None when it has neither state nor settings."""
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
        """A page of the live tenant queues in the order of lane and account, and the cursor of the next page.

        `idle_longer_than` (seconds) keeps those that are unused for as long. With it a page may be shorter than
        `limit` and still have a cursor.

        Raises:
            InvalidEntry: the cursor is not one of ours.
        """
        lanes = [lane] if lane is not None else self.lanes()
        if account is not None:
            found = [self.describe(each, account) for each in lanes]
            now = datetime.now(UTC)
            return [each for each in found if each is not None and _is_idle(each, idle_longer_than, now)], None
        at_lane, at_shard, after = _decode_cursor(cursor)
        out: list[QueueDescription] = []
        pages = 0
        for each in lanes:
            for shard in range(self._keys.shards):
                if (each, shard) < (at_lane, at_shard):
                    continue
                last = after if (each, shard) == (at_lane, at_shard) else b""
                while True:
                    size = limit - len(out) if idle_longer_than is None else _PAGE
                    names = self._names(each, shard, last, size)
                    pages += 1
                    for name, found_queue in zip(names, self._describe(each, names), strict=True):
                        last = name
                        if found_queue is not None and _is_idle(found_queue, idle_longer_than, datetime.now(UTC)):
                            out.append(found_queue)
                            if len(out) >= limit:
                                return out, _encode_cursor(each, shard, last)
                    if len(names) < size:
                        break
                    if pages >= _MOST_PAGES:
                        return out, _encode_cursor(each, shard, last)
        return out, None

    def _names(self, lane: str, shard: int, after: bytes, size: int) -> list[bytes]:
        names: list[bytes] = self._server.run(script("names"), self._keys.root(lane, shard), after, size)
        return names

    def position(self, lane: str, account: str | None, entry_id: str) -> int | None:
        """How many entries of the queue come first; 0 is next; None when it does not wait."""
        raw = token(account)
        place: int | None = self._server.run(script("position"), self._root(lane, raw), raw, entry_id)
        return place

    def contains(self, lane: str, account: str | None, entry_ids: Iterable[str]) -> set[str]:
        """Which of the entries the server holds: waiting, delayed or leased."""
        return self.contains_many(lane, ((account, entry_id) for entry_id in entry_ids))[account]

    def contains_many(self, lane: str, entries: Iterable[tuple[str | None, str]]) -> dict[str | None, set[str]]:
        """The same for (account, entry id) pairs of many accounts, in a few round trips."""
        by_account: dict[str | None, list[str]] = {}
        for account, entry_id in entries:
            by_account.setdefault(account, []).append(entry_id)
        asked: list[tuple[str | None, list[str]]] = []
        for account, ids in by_account.items():
            asked.extend((account, ids[start : start + _ASKED_AT_ONCE]) for start in range(0, len(ids), _ASKED_AT_ONCE))
        calls = [
            Call(script("contains"), self._root(lane, token(account)), (token(account), *ids)) for account, ids in asked
        ]
        held: dict[str | None, set[str]] = {account: set() for account in by_account}
        if not calls:
            return _Missing(held)
        for start in range(0, len(calls), _PAGE):
            answers = self._server.run_many(calls[start : start + _PAGE])
            for (account, ids), answer in zip(asked[start : start + _PAGE], answers, strict=True):
                if isinstance(answer, Exception):
                    raise answer
                held[account].update(each for each, there in zip(ids, answer, strict=True) if there)
        return _Missing(held)

    def totals(self, lane: str) -> LaneTotals:
        """The lane's totals, in constant time."""
        sums = [0] * 6
        oldest: list[float] = []
        paused, most, buried, started, dwelt_ms = False, 0, 0, 0, 0
        for shard in range(self._keys.shards):
            answer = self._server.run(script("totals"), self._keys.root(lane, shard))
            sums = [known + new for known, new in zip(sums, answer[1:7], strict=True)]
            if float(answer[7]):
                oldest.append(max(0.0, (answer[0] - float(answer[7])) / 1000))
            until = int(float(answer[8]))
            paused = paused or until == FOR_GOOD or until > answer[0]
            most += answer[9]
            buried += answer[10]
            started += answer[11]
            dwelt_ms += answer[12]
        waiting, delayed, active, ready, queues, idle = sums
        return LaneTotals(
            waiting=waiting,
            delayed=delayed,
            active=active,
            ready=ready,
            queues=queues,
            idle=idle,
            oldest_wait=max(oldest, default=None),
            paused=paused,
            global_concurrency=most or None,
            buried=buried,
            started=started,
            dwelt_seconds=dwelt_ms / 1000,
        )

    def heaviest(
        self, lane: str, by: Literal["seconds", "backlog"] = "seconds", *, number: int = 10, hours_back: int = 0
    ) -> list[tuple[str | None, float]]:
        """The accounts with the most seconds used in an hour (0: the current one), or with the most waiting.

        Both are exact, but for what is not kept: an account's last 10 ms, and backlogs shorter than ten where more than
        a thousand accounts (of a shard) have something waiting.
        """
        found: dict[bytes, float] = {}
        for shard in range(self._keys.shards):
            answer = self._server.run(script("heaviest"), self._keys.root(lane, shard), by, number, hours_back)
            unit = 1e6 if by == "seconds" else 1.0
            found.update((raw, float(value) / unit) for raw, value in zip(answer[::2], answer[1::2], strict=True))
        if by == "backlog" and len(found) < number:
            found.update(self._short_backlogs(lane, found))
        heaviest = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:number]
        return [(account_of(raw), value) for raw, value in heaviest]

    def loads(self, lane: str, by: Literal["seconds", "backlog"] = "seconds", *, number: int = 10) -> list[AccountLoad]:
        """`heaviest` in the current hour, with both figures of each account and its part of the lane's total."""
        found = self.heaviest(lane, by, number=number)
        spent = self._seconds_used(lane)
        total = sum(spent.values()) if by == "seconds" else float(self.totals(lane).waiting)
        queues = self._describe(lane, [token(account) for account, _ in found])
        loads = []
        for (account, value), queue in zip(found, queues, strict=True):
            used = value if by == "seconds" else spent.get(token(account), 0.0)
            waiting = int(value) if by == "backlog" else (queue.waiting if queue is not None else 0)
            # Between two looks the total can have become less than one account had.
            loads.append(AccountLoad(account, used, waiting, min(1.0, value / total) if total else 0.0))
        return loads

    def _seconds_used(self, lane: str) -> dict[bytes, float]:
        """Every account's seconds in the current hour, a page at a time."""
        found: dict[bytes, float] = {}
        for shard in range(self._keys.shards):
            root = self._keys.root(lane, shard)
            start = 0
            while True:
                answer = self._server.run(script("heaviest"), root, "seconds", _LISTED_AT_ONCE, 0, start)
                found.update((raw, float(value) / 1e6) for raw, value in zip(answer[::2], answer[1::2], strict=True))
                if len(answer) < 2 * _LISTED_AT_ONCE:
                    break
                start += _LISTED_AT_ONCE
        return found

    def _short_backlogs(self, lane: str, known: Container[bytes]) -> Iterator[tuple[bytes, float]]:
        """The backlogs of accounts that are not kept by length, where few accounts have any."""
        for shard in range(self._keys.shards):
            since = self._keys.root(lane, shard) + LANE_KEYS["since"][0]
            waiting = self._server.command("ZRANGE", since, 0, _MOST_SHORT_BACKLOGS)
            if len(waiting) > _MOST_SHORT_BACKLOGS:
                continue
            asked = [raw for raw in waiting if raw not in known]
            for start in range(0, len(asked), _SET_AT_ONCE):
                page = asked[start : start + _SET_AT_ONCE]
                for raw, queue in zip(page, self._describe(lane, page), strict=True):
                    if queue is not None and queue.waiting:
                        yield raw, float(queue.waiting)

    def explain(self, lane: str, account: str | None, entry_id: str) -> list[Reason]:
        """Why an entry does not run now: all reasons that hold; none once it runs, or where it is not held."""
        raw = token(account)
        root = self._root(lane, raw)
        calls = [Call(script("explain"), root, (raw, entry_id)), Call(script("describe"), root, (raw,))]
        reasons, described = self._server.run_many(calls)
        for answer in (reasons, described):
            if isinstance(answer, Exception):
                raise answer
        return decode_reasons(reasons, settings_of(described[2]))

    def check(self, lane: str) -> list[Violation]:
        """Checks every tenant queue and lease of a live lane, and repairs what it names. In pages, never all at once.

        It goes through all keys of the server once, to find tenant queues that no list names any more.
        """
        return self._checks.check(lane)

    def check_page(
        self, lane: str, position: CheckPosition | None = None
    ) -> tuple[list[Violation], CheckPosition | None]:
        """A page of `check`, from a position that the page before gave; None after the last page."""
        return self._checks.page(lane, position)

    def check_damaged(self, lane: str) -> list[Violation]:
        """Repairs tenant queues that a script has met and found damaged, some at a time."""
        return self._checks.damaged(lane)

    def missing(
        self, lane: str, entries: Iterable[tuple[str | None, str]]
    ) -> tuple[list[tuple[str | None, str]], list[Violation]]:
        """Which of these (account, entry id) the lane does not hold, for whoever can send them again.

        Their tenant queues and they themselves are repaired where that is needed.
        """
        return self._checks.missing(lane, entries)

    def entries(self, lane: str) -> Iterator[HeldEntries]:
        """Everything that the lane holds, by tenant queue, in pages. What moves meanwhile may be missed."""
        for shard in range(self._keys.shards):
            root, last = self._keys.root(lane, shard), b""
            while names := self._names(lane, shard, last, _PAGE):
                last = names[-1]
                for start in range(0, len(names), _ASKED_AT_ONCE // 10):
                    yield from self._entries(root, lane, names[start : start + _ASKED_AT_ONCE // 10])
                if len(names) < _PAGE:
                    break

    def _entries(self, root: str, lane: str, names: Sequence[bytes]) -> Iterator[HeldEntries]:
        skipped = 0
        while names:
            answers = self._server.run_many(
                [Call(script("entries"), root, (name, skipped, _LISTED_AT_ONCE)) for name in names]
            )
            more = []
            for name, answer in zip(names, answers, strict=True):
                if isinstance(answer, Exception):
                    raise answer
                ids, leases = answer
                held = tuple(
                    HeldLease(int(slot), int(epoch), worker.decode(), entry_id.decode())
                    for slot, epoch, worker, entry_id in leases
                )
                if ids or held:
                    yield HeldEntries(lane, account_of(name), tuple(each.decode() for each in ids), held)
                if len(ids) == _LISTED_AT_ONCE:
                    more.append(name)
            names, skipped = more, skipped + _LISTED_AT_ONCE

    def traces(self, lane: str, account: str | None) -> list[str]:
        """The kinds of keys in which anything of the tenant queue is left, settings too; empty: it is as never used.

        Buried messages are told by `buried`.
        """
        raw = token(account)
        return [name.decode() for name in self._server.run(script("traces"), self._root(lane, raw), raw)]

    # -- removing

    def release(self, lane: str, account: str | None, leases: Iterable[HeldLease]) -> int:
        """Ends leases whose holders are known to be dead; their entries wait again. Returns how many were ended."""
        raw = token(account)
        named = [argument for each in leases for argument in (raw, each.slot, each.epoch)]
        return int(self._server.run(script("release"), self._root(lane, raw), *named)) if named else 0

    def remove(self, lane: str, account: str | None, entry_ids: Iterable[str]) -> list[str]:
        """Removes entries that wait or are delayed; leased ones stay. Returns the ids removed."""
        raw, ids = token(account), list(entry_ids)
        removed: list[str] = []
        for start in range(0, len(ids), _PURGED_AT_ONCE):
            chunk = ids[start : start + _PURGED_AT_ONCE]
            answer = self._server.run(script("remove"), self._root(lane, raw), raw, *chunk)
            removed.extend(each.decode() for each in answer)
        return removed

    def purge(self, lane: str, account: str | None) -> list[str]:
        """Removes all that waits or is delayed; what runs goes on. Returns the ids removed."""
        raw = token(account)
        removed: list[str] = []
        while True:
            answer = self._server.run(script("purge"), self._root(lane, raw), raw, _PURGED_AT_ONCE)
            removed.extend(each.decode() for each in answer)
            if len(answer) < _PURGED_AT_ONCE:
                return removed

    def purge_many(self, lane: str, accounts: Iterable[str | None]) -> dict[str | None, list[str]]:
        """`purge` for many accounts, in a few round trips."""
        removed: dict[str | None, list[str]] = {account: [] for account in accounts}
        left = list(removed)
        while left:
            page, left = left[:_PURGED_TOGETHER], left[_PURGED_TOGETHER:]
            raws = [token(account) for account in page]
            answers = self._server.run_many(
                [Call(script("purge"), self._root(lane, raw), (raw, _PURGED_AT_ONCE)) for raw in raws]
            )
            for account, answer in zip(page, answers, strict=True):
                if isinstance(answer, Exception):
                    raise answer
                removed[account].extend(each.decode() for each in answer)
                if len(answer) == _PURGED_AT_ONCE:
                    left.append(account)
        return removed

    def delete(self, lane: str, account: str | None) -> bool:
        """Tears down the state of an empty tenant queue (settings stay). False: it holds something."""
        raw = token(account)
        return bool(self._server.run(script("delete"), self._root(lane, raw), raw))

    def reap(
        self, idle_seconds: float, *, lane: str | None = None, dry_run: bool = False, limit: int = 1000
    ) -> list[tuple[str, str | None]]:
        """Tears down up to `limit` tenant queues that are empty and unused for `idle_seconds`: (lane, account).

        Those that were torn down are given back also when the server goes away before the rest is.
        """
        reaped: list[tuple[str, str | None]] = []
        for each in [lane] if lane is not None else self.lanes():
            for shard in range(self._keys.shards):
                while len(reaped) < limit:
                    size = min(_PAGE, limit - len(reaped))
                    root = self._keys.root(each, shard)
                    size = size if not dry_run else limit - len(reaped)
                    try:
                        answer = self._server.run(script("reap"), root, round(idle_seconds * 1000), size, int(dry_run))
                    except BrokerConnectionError:
                        if not reaped:
                            raise
                        return reaped
                    reaped.extend((each, account_of(raw)) for raw in answer)
                    if dry_run or len(answer) < size:
                        break
        return reaped

    def flush(self, lane: str) -> None:
        """Drops everything the lane holds, leases and buried messages too; settings stay."""
        for shard in range(self._keys.shards):
            while self._server.run(script("flush"), self._keys.root(lane, shard), 100):
                continue

    # -- steering

    def pause(self, lane: str, account: str | None = None, until: datetime | None = None) -> None:
        """Nothing of the tenant queue (of the whole lane when `account` is None) starts, until a time or `resume`."""
        self._pause(lane, account, until_ms(until))

    def resume(self, lane: str, account: str | None = None) -> None:
        """Ends a pause of the tenant queue (of the lane when `account` is None)."""
        self._pause(lane, account, RUNNING)

    def _pause(self, lane: str, account: str | None, until: int) -> None:
        if account is None:
            self._known.make_known(lane)
            for shard in range(self._keys.shards):
                self._server.run(script("configure_lane"), self._keys.root(lane, shard), "paused", until)
        else:
            self._configure(lane, [account], "queue_paused", until)

    def pause_account(self, account: str, until: datetime | None = None) -> None:
        """Nothing of the account starts, on any lane, also on those to come; a queue's own pause is apart from it."""
        ends = until_ms(until)
        self._known.pause(token(account), ends)
        for lane in self.lanes():
            self._configure(lane, [account], "account_paused", ends)

    def resume_account(self, account: str) -> None:
        """Ends the account's pause."""
        self._known.resume(token(account))
        for lane in self.lanes():
            self._configure(lane, [account], "account_paused", RUNNING)

    def pause_many(self, lane: str, accounts: Iterable[str], until: datetime | None = None) -> None:
        """`pause` for many accounts, in a few round trips."""
        self._configure(lane, accounts, "queue_paused", until_ms(until))

    def resume_many(self, lane: str, accounts: Iterable[str]) -> None:
        """`resume` for many accounts, in a few round trips."""
        self._configure(lane, accounts, "queue_paused", RUNNING)

    def set_limits(self, lane: str, account: str, limits: QueueLimits) -> None:
        """Replaces the tenant queue's limits; what waits already feels it at once."""
        self._configure(lane, [account], "limits", ":".join(map(str, limits.fields())))

    def set_settings(self, lane: str, settings: Mapping[str, StoredSettings]) -> int:
        """Replaces everything that is set for these accounts' queues. Returns how many had something else before."""
        changed = 0
        self._known.make_known(lane)
        values = {token(account): each.encode() for account, each in settings.items()}
        for root, tokens in self._by_root(lane, values).items():
            for start in range(0, len(tokens), _SET_AT_ONCE):
                pairs = [part for raw in tokens[start : start + _SET_AT_ONCE] for part in (raw, values[raw])]
                changed += self._server.run(script("set_settings"), root, *pairs)
        return changed

    def accounts_with_settings(self, lane: str) -> Iterator[list[str]]:
        """The accounts that have settings other than the defaults, some at a time; one may come twice."""
        for shard in range(self._keys.shards):
            cursor: Argument = 0
            while True:
                cursor, pairs = self._server.command("HSCAN", self._keys.limits(lane, shard), cursor, "COUNT", _PAGE)
                found = [account_of(raw) for raw in pairs[::2]]
                yield [account for account in found if account is not None]
                if int(cursor) == 0:
                    break

    def set_lane_limits(self, lane: str, global_concurrency: int | None) -> None:
        """Most messages of the lane that run at one time, over all workers; None: no bound.

        Raises:
            InvalidEntry: it is below 1, or below the number of shards, among which it is divided.
        """
        if global_concurrency is not None and global_concurrency < self._keys.shards:
            raise InvalidEntry(f"global_concurrency: {global_concurrency}; at least {self._keys.shards}, or None")
        self._known.make_known(lane)
        for shard in range(self._keys.shards):
            part = 0
            if global_concurrency is not None:
                part = global_concurrency // self._keys.shards + (shard < global_concurrency % self._keys.shards)
            self._server.run(script("configure_lane"), self._keys.root(lane, shard), "global", part)

    # -- buried messages

    def buried(self, lane: str, limit: int = 100) -> list[BuriedMessage]:
        """The oldest buried messages of the lane."""
        found: list[BuriedMessage] = []
        for shard in range(self._keys.shards):
            answer = self._server.run(script("buried"), self._keys.root(lane, shard), "list", limit)
            for burial_id, at, grave in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
                if grave is not None:
                    found.append(decode_grave(lane, burial_id, at, grave))
        return found[:limit]

    def take_buried(self, lane: str, burial_ids: Sequence[str]) -> int:
        """Removes buried messages, once they are kept elsewhere. Returns how many were there."""
        return sum(
            self._server.run(script("buried"), self._keys.root(lane, shard), "take", *burial_ids)
            for shard in range(self._keys.shards)
        )

    # -- generation

    def generation(self) -> int | None:
        """The number last set; None when the server has lost it, and so perhaps all else."""
        raw = self._server.command("GET", self._keys.generation)
        try:
            return None if raw is None else int(raw)
        except ValueError:
            return None

    def set_generation(self, number: int, *, only_if_there: bool = False) -> bool:
        """Sets it; with `only_if_there` not on a server that has lost the one before: then False."""
        condition = ("XX",) if only_if_there else ()
        return self._server.command("SET", self._keys.generation, number, *condition) is not None

    # -- within

    def _root(self, lane: str, raw: bytes) -> str:
        return self._keys.root(lane, shard_of(raw, self._keys.shards))

    def _by_root(self, lane: str, tokens: Iterable[bytes]) -> dict[str, list[bytes]]:
        grouped: dict[str, list[bytes]] = {}
        for raw in tokens:
            grouped.setdefault(self._root(lane, raw), []).append(raw)
        return grouped

    def _configure(self, lane: str, accounts: Iterable[str], what: str, value: Argument) -> None:
        tokens = [token(account) for account in accounts]
        self._known.make_known(lane)
        configure(self._server, self._keys, lane, tokens, what, value)

    def _describe(self, lane: str, tokens: Sequence[bytes]) -> list[QueueDescription | None]:
        found: dict[bytes, QueueDescription | None] = {}
        for root, members in self._by_root(lane, tokens).items():
            answer = self._server.run(script("describe"), root, *members)
            lane_paused = int(float(answer[1]))
            for raw, fields in zip(members, answer[2:], strict=True):
                found[raw] = None if not fields else decode_description(lane, raw, answer[0], lane_paused, fields)
        return [found[raw] for raw in tokens]


class _Missing(dict[str | None, set[str]]):
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
