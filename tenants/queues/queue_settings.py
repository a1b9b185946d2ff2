"""Administration: limits and pauses of tenant queues, accounts and lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from .errors import InvalidEntry
from .keys import account_of, token
from .known_lanes import configure
from .lane_calls import LaneCalls
from .limits import RUNNING, QueueLimits, StoredSettings, until_ms
from .lua import script
from .server import Argument

#: Queues in one script call, so that other clients' calls run in between.
_SET_AT_ONCE = 100
_SCANNED_AT_ONCE = 500


class QueueSettings(LaneCalls):
    """Settings of a namespace. A change acts at once on what waits already."""

    def pause(self, lane: str, account: str | None = None, until: datetime | None = None) -> None:
        """Nothing of the tenant queue (without `account`: of the whole lane) starts, until a time or `resume`."""
        self._pause(lane, account, until_ms(until))

    def resume(self, lane: str, account: str | None = None) -> None:
        """Ends a pause of the tenant queue (without `account`: of the lane)."""
        self._pause(lane, account, RUNNING)

    def _pause(self, lane: str, account: str | None, until: int) -> None:
        if account is None:
            self._configure_lane(lane, "paused", [until] * self._keys.shards)
        else:
            self._configure(lane, [account], "queue_paused", until)

    def pause_account(self, account: str, until: datetime | None = None) -> None:
        """Nothing of the account starts, on any lane, also on future ones. A queue's own pause is separate."""
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
        """Replaces the tenant queue's limits."""
        self._configure(lane, [account], "limits", ":".join(map(str, limits.fields())))

    def set_settings(self, lane: str, settings: Mapping[str, StoredSettings]) -> int:
        """Replaces all settings of these accounts' queues. Returns how many had other settings before."""
        changed = 0
        self._known.make_known(lane)
        values = {token(account): each.encode() for account, each in settings.items()}
        for root, tokens in self._by_root(lane, values).items():
            for start in range(0, len(tokens), _SET_AT_ONCE):
                pairs = [part for raw in tokens[start : start + _SET_AT_ONCE] for part in (raw, values[raw])]
                changed += self._server.run(script("set_settings"), root, *pairs)
        return changed

    def accounts_with_settings(self, lane: str) -> Iterator[list[str]]:
        """Pages of the accounts whose settings differ from the defaults; an account may come twice."""
        for shard in range(self._keys.shards):
            for pairs in self._server.scan("HSCAN", self._keys.limits(lane, shard), _SCANNED_AT_ONCE):
                yield [account for raw in pairs[::2] if (account := account_of(raw)) is not None]

    def set_lane_limits(self, lane: str, global_concurrency: int | None) -> None:
        """Most messages of the lane that run at one time, over all workers; None: no bound.

        Raises:
            InvalidEntry: it is below 1, or below the number of shards, among which it is divided.
        """
        shards = self._keys.shards
        if global_concurrency is not None and global_concurrency < shards:
            raise InvalidEntry(f"global_concurrency: {global_concurrency}; at least {shards}, or None")
        each, rest = divmod(global_concurrency or 0, shards)
        self._configure_lane(lane, "global", [each + (shard < rest) for shard in range(shards)])

    def _configure_lane(self, lane: str, field: str, values: list[int]) -> None:
        """Changes a setting of the lane; one value for each shard."""
        self._known.make_known(lane)
        for root, value in zip(self._roots(lane), values, strict=True):
            self._server.run(script("configure_lane"), root, field, value)

    def _configure(self, lane: str, accounts: Iterable[str], what: str, value: Argument) -> None:
        tokens = [token(account) for account in accounts]
        self._known.make_known(lane)
        configure(self._server, self._keys, lane, tokens, what, value)
