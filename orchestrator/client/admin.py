"""Calls for admin keys: tenant queues, lanes, keys, dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal, TypedDict, Unpack, cast

from .connection import Api, given, segment
from .types import (
    AccountLoad,
    Checked,
    DeadLetter,
    DeadLetterSummary,
    Job,
    Key,
    Lane,
    LaneWideLimits,
    NewKey,
    Queue,
    QueueDeleted,
    Resolved,
)

#: A reconciliation or a check reads every waiting step and message before it answers.
LONG_SECONDS = 600.0


class QueuesApi(Api):
    """Live tenant queues: `/v1/admin/queues`."""

    def list(
        self,
        *,
        limit: int | None = 50,
        lane: str | None = None,
        account: str | None = None,
        idle_longer_than: float | None = None,
    ) -> Iterator[Queue]:
        """Tenant queues; `idle_longer_than` in seconds."""
        filters = {"lane": lane, "account": account, "idle_longer_than": idle_longer_than}
        return self._connection.pages("/v1/admin/queues", filters, limit)

    def get(self, lane: str, account: str) -> Queue:
        """One live tenant queue."""
        return cast("Queue", self._connection.call("GET", _queue(lane, account)))

    def pause(self, lane: str, account: str) -> Queue:
        """Pause the tenant queue; it need not be live."""
        return cast("Queue", self._connection.call("POST", f"{_queue(lane, account)}:pause"))

    def resume(self, lane: str, account: str) -> Queue:
        """End the tenant queue's pause."""
        return cast("Queue", self._connection.call("POST", f"{_queue(lane, account)}:resume"))

    def delete(self, lane: str, account: str, *, force: bool = False) -> QueueDeleted:
        """Delete a tenant queue; `force` cancels its waiting jobs."""
        params = {"force": "true" if force else None}
        return cast("QueueDeleted", self._connection.call("DELETE", _queue(lane, account), params=params))

    def check(self) -> Checked:
        """Check the broker's invariants, and repair violations."""
        return cast("Checked", self._connection.call("POST", "/v1/admin/queues:check", wait_seconds=LONG_SECONDS))


class LanesApi(Api):
    """`/v1/admin/lanes`."""

    def list(self) -> Sequence[Lane]:
        """Every lane, with its counts over all accounts."""
        return cast("list[Lane]", self._connection.call("GET", "/v1/admin/lanes")["items"])

    def pause(self, lane: str) -> Lane:
        """Pause the lane for all accounts."""
        return cast("Lane", self._connection.call("POST", f"/v1/admin/lanes/{segment(lane)}:pause"))

    def resume(self, lane: str) -> Lane:
        """End the lane's pause."""
        return cast("Lane", self._connection.call("POST", f"/v1/admin/lanes/{segment(lane)}:resume"))

    def heaviest(
        self, lane: str, *, by: Literal["seconds", "backlog"] = "seconds", limit: int = 10
    ) -> Sequence[AccountLoad]:
        """The accounts that used the lane most since the hour began, or that have the largest backlog."""
        path = f"/v1/admin/lanes/{segment(lane)}/heaviest"
        return cast("list[AccountLoad]", self._connection.call("GET", path, params={"by": by, "limit": limit})["items"])

    def put_limits(self, lane: str, *, global_concurrency: int | None = None) -> LaneWideLimits:
        """Replace the lane's limits; None is no limit."""
        path, body = f"/v1/admin/lanes/{segment(lane)}/limits", {"global_concurrency": global_concurrency}
        return cast("LaneWideLimits", self._connection.call("PUT", path, json=body))


class KeysApi(Api):
    """Keys with scope `admin`: `/v1/admin/keys`. `AccountsApi` has those of an account."""

    def list(self, *, limit: int | None = 50) -> Iterator[Key]:
        """The keys, newest first, without the secrets."""
        return self._connection.pages("/v1/admin/keys", {}, limit)

    def create(self, name: str = "", *, expires_at: datetime | None = None) -> NewKey:
        """Create a key with scope admin; only this answer has it."""
        body = given(name=name or None, expires_at=expires_at.isoformat() if expires_at else None)
        return cast("NewKey", self._connection.call("POST", "/v1/admin/keys", json=body, creates=True))

    def rotate(
        self, key_id: str, *, overlap_seconds: float | None = None, expires_at: datetime | None = None
    ) -> NewKey:
        """Replace a key; the old one stays valid for `overlap_seconds`, by default a day."""
        body = given(overlap=overlap_seconds, expires_at=expires_at.isoformat() if expires_at else None)
        path = f"/v1/admin/keys/{segment(key_id)}:rotate"
        return cast("NewKey", self._connection.call("POST", path, json=body, creates=True))

    def delete(self, key_id: str) -> None:
        """Revoke a key."""
        self._connection.call("DELETE", f"/v1/admin/keys/{segment(key_id)}")


class LetterFilter(TypedDict, total=False):
    """Which dead letters; an omitted field matches all."""

    account: str | None
    lane: str | None
    pipeline: str | None
    error_code: str | None


class DeadLettersApi(Api):
    """`/v1/admin/dead-letters`."""

    def list(self, *, limit: int | None = 50, **chosen: Unpack[LetterFilter]) -> Iterator[DeadLetterSummary]:
        """Open dead letters, newest first."""
        return self._connection.pages(_LETTERS, chosen, limit)

    def get(self, dead_letter_id: str) -> DeadLetter:
        """One dead letter with its message, traceback and attempts."""
        return cast("DeadLetter", self._connection.call("GET", f"{_LETTERS}/{segment(dead_letter_id)}"))

    def replay(self, dead_letter_id: str) -> Job:
        """Continue its job at the failed step; the answer is the job."""
        return cast("Job", self._connection.call("POST", f"{_LETTERS}/{segment(dead_letter_id)}:replay"))

    def discard(self, dead_letter_id: str) -> None:
        """Discard a dead letter; its job stays failed."""
        self._connection.call("DELETE", f"{_LETTERS}/{segment(dead_letter_id)}")

    def replay_all(
        self, *, per_second: float | None = None, dry_run: bool = False, **chosen: Unpack[LetterFilter]
    ) -> Resolved:
        """Replay the oldest 1,000 that match, at most `per_second`; `left` is the number of the others."""
        body = given(filter=given(**chosen), dry_run=dry_run, per_second=per_second)
        return cast("Resolved", self._connection.call("POST", f"{_LETTERS}:replay", json=body, wait_seconds=60))

    def discard_all(self, *, dry_run: bool = False, **chosen: Unpack[LetterFilter]) -> Resolved:
        """Discard the oldest 1,000 that match; their jobs stay failed."""
        body = {"filter": given(**chosen), "dry_run": dry_run}
        return cast("Resolved", self._connection.call("POST", f"{_LETTERS}:discard", json=body, wait_seconds=60))


_LETTERS = "/v1/admin/dead-letters"


def _queue(lane: str, account: str) -> str:
    return f"/v1/admin/queues/{segment(lane)}/{segment(account)}"
