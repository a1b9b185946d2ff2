"""Accounts, their limits, target, session, keys and webhook secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from .connection import Api, Event, given, segment
from .errors import ExportCut, NotReachable
from .types import (
    Account,
    AccountSummary,
    Erasure,
    ErasureBegun,
    Key,
    Limits,
    NewKey,
    NewWebhookSecret,
    Session,
    Target,
    UsageHistory,
    WebhookSecret,
)


class AccountsApi(Api):
    """`/v1/accounts`."""

    def list(
        self, *, limit: int | None = 50, q: str | None = None, status: str | None = None
    ) -> Iterator[AccountSummary]:
        """Accounts in the order of their ids; `q` is a prefix."""
        return self._connection.pages("/v1/accounts", {"q": q, "status": status}, limit)

    def get(self, account: str) -> Account:
        """Status, limits, lanes, session, target and usage."""
        return cast("Account", self._call("GET", account))

    def usage(self, account: str, *, first: str | None = None, last: str | None = None) -> UsageHistory:
        """The usage by UTC day; the last 30 days, or from `first` to `last` (`2026-11-21`)."""
        return cast("UsageHistory", self._call("GET", account, "/usage", params={"from": first, "to": last}))

    def put_limits(
        self,
        account: str,
        *,
        weight: int | None = None,
        account_concurrency: int | None = None,
        max_waiting: int | None = None,
        daily_quota: int | None = None,
        lanes: Mapping[str, Any] | None = None,
    ) -> Limits:
        """Replace all limits, also for waiting jobs; omitted limits get their default."""
        body = given(
            weight=weight,
            account_concurrency=account_concurrency,
            max_waiting=max_waiting,
            daily_quota=daily_quota,
            lanes=lanes,
        )
        return cast("Limits", self._call("PUT", account, "/limits", json=body))

    def pause(self, account: str) -> Account:
        """Pause the account: nothing new starts."""
        return cast("Account", self._call("POST", account, ":pause"))

    def resume(self, account: str) -> Account:
        """End a pause, a drain or a suspension."""
        return cast("Account", self._call("POST", account, ":resume"))

    def drain(self, account: str) -> Account:
        """Take no new jobs; accepted ones finish."""
        return cast("Account", self._call("POST", account, ":drain"))

    def suspend(self, account: str) -> Account:
        """Take no new jobs and start no steps."""
        return cast("Account", self._call("POST", account, ":suspend"))

    def events(self, account: str, *, from_start: bool = False) -> Iterator[Event]:
        """The events of the account's jobs; each has `job` in its data. The stream does not end.

        With `from_start` it begins with the first stored event, instead of a `snapshot` for each unfinished job.
        """
        return self._connection.events(f"/v1/accounts/{segment(account)}/events", from_start=from_start)

    def export(self, account: str) -> Iterator[dict[str, Any]]:
        """All data of the account, line by line: a header, `{type, data}` for each row, and `{type: end}`.

        Raises:
            ExportCut: after the last line: the stream broke off, so data are missing.
        """
        last: dict[str, Any] = {}
        try:
            for last in self._connection.lines(f"/v1/accounts/{segment(account)}:export"):
                yield last
        except NotReachable as error:
            if not last:
                raise
            raise ExportCut(f"the export of account {account!r} was cut: {error}") from error
        if last.get("type") != "end":
            raise ExportCut(f"the export of account {account!r} was cut: {last.get('detail') or 'it has no last line'}")

    def erase(self, account: str, *, force: bool = False) -> ErasureBegun:
        """Erase the account and all its data; `force` kills running steps. `erasure` shows the progress."""
        return cast("ErasureBegun", self._call("DELETE", account, params={"force": "true" if force else None}))

    def erasure(self, erasure_id: str) -> Erasure:
        """An erasure's progress, and what was removed."""
        return cast("Erasure", self._connection.call("GET", f"/v1/admin/erasures/{segment(erasure_id)}"))

    def erasures(self, *, limit: int | None = 50, account: str | None = None) -> Iterator[Erasure]:
        """Erasures, newest first."""
        return self._connection.pages("/v1/admin/erasures", {"account": account}, limit)

    def target(self, account: str) -> Target:
        """The publishing target."""
        return cast("Target", self._call("GET", account, "/target"))

    def put_target(
        self, account: str, publisher: str, base_url: str, options: Mapping[str, Any] | None = None
    ) -> Target:
        """Set the publishing target."""
        body = {"publisher": publisher, "base_url": base_url, "options": dict(options or {})}
        return cast("Target", self._call("PUT", account, "/target", json=body))

    def delete_target(self, account: str) -> None:
        """Delete the publishing target."""
        self._call("DELETE", account, "/target")

    def session(self, account: str) -> Session:
        """The state of the browser session; its content is never returned."""
        return cast("Session", self._call("GET", account, "/session"))

    def put_session(
        self,
        account: str,
        *,
        storage_state: Mapping[str, Any] | None = None,
        credentials: tuple[str, str] | None = None,
        expires_at: datetime | None = None,
    ) -> Session:
        """Set the account's browser session, or the user name and password to sign in with; both are sealed."""
        body = given(
            storage_state=storage_state,
            credentials={"username": credentials[0], "password": credentials[1]} if credentials else None,
            expires_at=expires_at.isoformat() if expires_at else None,
        )
        return cast("Session", self._call("PUT", account, "/session", json=body))

    def delete_session(self, account: str) -> None:
        """Delete the browser session."""
        self._call("DELETE", account, "/session")

    def create_key(self, account: str, name: str = "", *, expires_at: datetime | None = None) -> NewKey:
        """Create a key with scope `account`; only this answer has it."""
        body = given(name=name or None, expires_at=expires_at.isoformat() if expires_at else None)
        return cast("NewKey", self._call("POST", account, "/keys", json=body, creates=True))

    def keys(self, account: str, *, limit: int | None = 50) -> Iterator[Key]:
        """The account's keys, newest first, without the secrets."""
        return self._connection.pages(f"/v1/accounts/{segment(account)}/keys", {}, limit)

    def rotate_key(
        self, account: str, key_id: str, *, overlap_seconds: float | None = None, expires_at: datetime | None = None
    ) -> NewKey:
        """Replace a key; the old one stays valid for `overlap_seconds`, by default a day."""
        body = given(overlap=overlap_seconds, expires_at=expires_at.isoformat() if expires_at else None)
        return cast("NewKey", self._call("POST", account, f"/keys/{segment(key_id)}:rotate", json=body, creates=True))

    def delete_key(self, account: str, key_id: str) -> None:
        """Revoke one key."""
        self._call("DELETE", account, f"/keys/{segment(key_id)}")

    def delete_keys(self, account: str) -> None:
        """Revoke all keys of the account."""
        self._call("DELETE", account, "/keys")

    def webhook_secret(self, account: str) -> WebhookSecret:
        """When the webhook secret was created."""
        return cast("WebhookSecret", self._call("GET", account, "/webhook-secret"))

    def rotate_webhook_secret(self, account: str) -> NewWebhookSecret:
        """Create a new webhook secret; only this answer has it."""
        return cast("NewWebhookSecret", self._call("POST", account, "/webhook-secret", creates=True))

    def _call(self, method: str, account: str, rest: str = "", **more: Any) -> Any:
        return self._connection.call(method, f"/v1/accounts/{segment(account)}{rest}", **more)
