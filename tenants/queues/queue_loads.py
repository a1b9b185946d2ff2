"""Administration: which accounts use a lane most, by seconds used and by backlog."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Literal

from .descriptions import AccountLoad
from .keys import LANE_KEYS, account_of, token
from .lua import script
from .queue_views import QueueViews

LoadOrder = Literal["seconds", "backlog"]

#: If a shard has more accounts with waiting messages, backlogs that are not kept by length are left out.
_MOST_SHORT_BACKLOGS = 1000
_DESCRIBED_AT_ONCE = 100
LISTED_AT_ONCE = 500


class QueueLoads(QueueViews):
    """The accounts of a lane, ordered by load."""

    def heaviest(
        self, lane: str, by: LoadOrder = "seconds", *, number: int = 10, hours_back: int = 0
    ) -> list[tuple[str | None, float]]:
        """The accounts with the most seconds used in an hour (0: the current one), or with the most waiting.

        Both are exact except for what is not kept: an account's last 10 ms, and backlogs shorter than ten if more than
        a thousand accounts of a shard have messages waiting.
        """
        found: dict[bytes, float] = {}
        for answer in self._on_shards("heaviest", lane, by, number, hours_back):
            unit = 1e6 if by == "seconds" else 1.0
            found.update((raw, float(value) / unit) for raw, value in zip(answer[::2], answer[1::2], strict=True))
        if by == "backlog" and len(found) < number:
            found.update(self._short_backlogs(lane, found))
        heaviest = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:number]
        return [(account_of(raw), value) for raw, value in heaviest]

    def loads(self, lane: str, by: LoadOrder = "seconds", *, number: int = 10) -> list[AccountLoad]:
        """`heaviest` in the current hour, with both figures of each account and its share of the lane's total."""
        found = self.heaviest(lane, by, number=number)
        spent = self._seconds_used(lane)
        total = sum(spent.values()) if by == "seconds" else float(self.totals(lane).waiting)
        queues = self._describe(lane, [token(account) for account, _ in found])
        loads = []
        for (account, value), queue in zip(found, queues, strict=True):
            used = value if by == "seconds" else spent.get(token(account), 0.0)
            waiting = int(value) if by == "backlog" else (queue.waiting if queue is not None else 0)
            # The total is read later and can have become smaller than one account's part.
            loads.append(AccountLoad(account, used, waiting, min(1.0, value / total) if total else 0.0))
        return loads

    def _seconds_used(self, lane: str) -> dict[bytes, float]:
        """Every account's seconds in the current hour, read in pages."""
        found: dict[bytes, float] = {}
        for root in self._roots(lane):
            start = 0
            while True:
                answer = self._server.run(script("heaviest"), root, "seconds", LISTED_AT_ONCE, 0, start)
                found.update((raw, float(value) / 1e6) for raw, value in zip(answer[::2], answer[1::2], strict=True))
                if len(answer) < 2 * LISTED_AT_ONCE:
                    break
                start += LISTED_AT_ONCE
        return found

    def _short_backlogs(self, lane: str, known: Container[bytes]) -> Iterator[tuple[bytes, float]]:
        """The backlogs that are not kept by length, of shards where few accounts have messages waiting."""
        for root in self._roots(lane):
            waiting = self._server.command("ZRANGE", root + LANE_KEYS["since"][0], 0, _MOST_SHORT_BACKLOGS)
            if len(waiting) > _MOST_SHORT_BACKLOGS:
                continue
            asked = [raw for raw in waiting if raw not in known]
            for start in range(0, len(asked), _DESCRIBED_AT_ONCE):
                page = asked[start : start + _DESCRIBED_AT_ONCE]
                for raw, queue in zip(page, self._describe(lane, page), strict=True):
                    if queue is not None and queue.waiting:
                        yield raw, float(queue.waiting)
