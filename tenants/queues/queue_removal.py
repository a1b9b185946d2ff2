"""Administration: end leases, remove entries, delete empty tenant queues, and hand over buried messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dramatiq.errors import BrokerConnectionError

from .descriptions import BuriedMessage, HeldLease, decode_buried
from .keys import account_of, token
from .lane_calls import LaneCalls
from .lua import script
from .server import Call

_REMOVED_AT_ONCE = 500
_PURGED_TOGETHER = 50
_REAPED_AT_ONCE = 500
_FLUSHED_AT_ONCE = 100


class QueueRemoval(LaneCalls):
    """Removal of what tenant queues hold, and of the queues."""

    def release(self, lane: str, account: str | None, leases: Iterable[HeldLease]) -> int:
        """Ends leases whose holders are known to be dead; their entries wait again. Returns how many were ended."""
        raw = token(account)
        named = [argument for each in leases for argument in (raw, each.slot, each.epoch)]
        return int(self._server.run(script("release"), self._root(lane, raw), *named)) if named else 0

    def remove(self, lane: str, account: str | None, entry_ids: Iterable[str]) -> list[str]:
        """Removes entries that wait or are delayed; leased ones stay. Returns the ids removed."""
        ids = list(entry_ids)
        removed: list[str] = []
        for start in range(0, len(ids), _REMOVED_AT_ONCE):
            answer = self._on_queue("remove", lane, account, *ids[start : start + _REMOVED_AT_ONCE])
            removed.extend(each.decode() for each in answer)
        return removed

    def purge(self, lane: str, account: str | None) -> list[str]:
        """Removes all that waits or is delayed; running messages continue. Returns the ids removed."""
        return self.purge_many(lane, [account])[account]

    def purge_many(self, lane: str, accounts: Iterable[str | None]) -> dict[str | None, list[str]]:
        """`purge` for many accounts, in a few round trips."""
        removed: dict[str | None, list[str]] = {account: [] for account in accounts}
        left = list(removed)
        while left:
            page, left = left[:_PURGED_TOGETHER], left[_PURGED_TOGETHER:]
            calls = [Call(script("purge"), self._root(lane, raw), (raw, _REMOVED_AT_ONCE)) for raw in map(token, page)]
            for account, answer in zip(page, self._server.run_all(calls, len(calls)), strict=True):
                removed[account].extend(each.decode() for each in answer)
                if len(answer) == _REMOVED_AT_ONCE:
                    left.append(account)
        return removed

    def delete(self, lane: str, account: str | None) -> bool:
        """Deletes the state of an empty tenant queue; settings stay. False: it holds something."""
        return bool(self._on_queue("delete", lane, account))

    def reap(
        self, idle_seconds: float, *, lane: str | None = None, dry_run: bool = False, limit: int = 1000
    ) -> list[tuple[str, str | None]]:
        """Deletes up to `limit` tenant queues that are empty and unused for `idle_seconds`: (lane, account).

        If the server fails after some were deleted, these are returned and no error is raised.
        """
        reaped: list[tuple[str, str | None]] = []
        for each in [lane] if lane is not None else self.lanes():
            for root in self._roots(each):
                while len(reaped) < limit:
                    size = limit - len(reaped) if dry_run else min(_REAPED_AT_ONCE, limit - len(reaped))
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
        """Drops everything that the lane holds, leases and buried messages too; settings stay."""
        for root in self._roots(lane):
            while self._server.run(script("flush"), root, _FLUSHED_AT_ONCE):
                continue

    def buried(self, lane: str, limit: int = 100) -> list[BuriedMessage]:
        """The oldest buried messages of the lane."""
        found = [
            decode_buried(lane, buried_id, at, stored)
            for answer in self._on_shards("buried", lane, "list", limit)
            for buried_id, at, stored in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
            if stored is not None
        ]
        return found[:limit]

    def take_buried(self, lane: str, buried_ids: Sequence[str]) -> int:
        """Removes buried messages, once they are stored elsewhere. Returns how many there were."""
        return sum(self._on_shards("buried", lane, "take", *buried_ids))
