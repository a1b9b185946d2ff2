"""Accounts and what belongs to one: limits, target, session, keys, webhook secret."""

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
    """`/v1/accounts` and what belongs to one."""

    def list(
        self, *, limit: int | None = 50, q: str | None = None, status: str | None = None
    ) -> Iterator[AccountSummary]:
        """Accounts in the order of their ids; `q` is a prefix."""
        return self._connection.pages("/v1/accounts", {"q": q, "status": status}, limit)

    def get(self, account: str) -> Account:
        """Status, limits, lanes, session, target and use."""
        return cast("Account", self._call("GET", account))

    def usage(self, account: str, *, first: str | None = None, last: str | None = None) -> UsageHistory:
        """What the account used, by UTC day; the last 30 days, or from `first` to `last` (`2026-11-21`)."""
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
        """Replace all limits; what is not given gets its default. They act on what waits, too."""
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
        """Take no new jobs; the rest finishes."""
        return cast("Account", self._call("POST", account, ":drain"))

    def suspend(self, account: str) -> Account:
        """Take no new jobs and let nothing start."""
        return cast("Account", self._call("POST", account, ":suspend"))

    def events(self, account: str, *, from_start: bool = False) -> Iterator[Event]:
        """What happens to the account's jobs; each datum has `job`. It does not end by itself.

        With `from_start` it begins with the first event that is still kept, instead of a `snapshot` for each
        unfinished job.
        """
        return self._connection.events(f"/v1/accounts/{segment(account)}/events", from_start=from_start)

    # --- all of it -----------------------------------------------------------------------------------------------

    def export(self, account: str) -> Iterator[dict[str, Any]]:
        """Everything held of the account, line by line: a header, `{type, data}` for each row, and `{type: end}`.

        Raises:
            ExportCut: after the last line that came: the stream had no end, or broke off, so there is more.
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
        """Erase the account and everything held of it; `force` kills what runs. `erasure` tells how far it is."""
        return cast("ErasureBegun", self._call("DELETE", account, params={"force": "true" if force else None}))

    def erasure(self, erasure_id: str) -> Erasure:
        """How far an erasure is, and what was removed."""
        return cast("Erasure", self._connection.call("GET", f"/v1/admin/erasures/{segment(erasure_id)}"))

    def erasures(self, *, limit: int | None = 50, account: str | None = None) -> Iterator[Erasure]:
        """Erasures, newest first; they stay."""
        return self._connection.pages("/v1/admin/erasures", {"account": account}, limit)

    # --- where it publishes --------------------------------------------------------------------------------------

    def target(self, account: str) -> Target:
        """Where the account publishes."""
        return cast("Target", self._call("GET", account, "/target"))

    def put_target(
        self, account: str, publisher: str, base_url: str, options: Mapping[str, Any] | None = None
    ) -> Target:
        """Set where the account publishes."""
        body = {"publisher": publisher, "base_url": base_url, "options": dict(options or {})}
        return cast("Target", self._call("PUT", account, "/target", json=body))

    def delete_target(self, account: str) -> None:
        """Forget where the account publishes."""
        self._call("DELETE", account, "/target")

    # --- with what it signs in -----------------------------------------------------------------------------------

    def session(self, account: str) -> Session:
        """The state of the browser session; its content is never told."""
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
        """Forget the browser session."""
        self._call("DELETE", account, "/session")

    # --- keys and secrets ----------------------------------------------------------------------------------------

    def create_key(self, account: str, name: str = "", *, expires_at: datetime | None = None) -> NewKey:
        """Make a key with scope `account`; the answer shows it, once."""
        body = given(name=name or None, expires_at=expires_at.isoformat() if expires_at else None)
        return cast("NewKey", self._call("POST", account, "/keys", json=body, creates=True))

    def keys(self, account: str, *, limit: int | None = 50) -> Iterator[Key]:
        """The account's keys, newest first, without what opens the door."""
        return self._connection.pages(f"/v1/accounts/{segment(account)}/keys", {}, limit)

    def rotate_key(
        self, account: str, key_id: str, *, overlap_seconds: float | None = None, expires_at: datetime | None = None
    ) -> NewKey:
        """Replace a key; the old one opens for `overlap_seconds` more, a day where that is not given."""
        body = given(overlap=overlap_seconds, expires_at=expires_at.isoformat() if expires_at else None)
        return cast("NewKey", self._call("POST", account, f"/keys/{segment(key_id)}:rotate", json=body, creates=True))

    def delete_key(self, account: str, key_id: str) -> None:
        """End one key."""
        self._call("DELETE", account, f"/keys/{segment(key_id)}")

    def delete_keys(self, account: str) -> None:
        """End all keys of the account."""
        self._call("DELETE", account, "/keys")

    def webhook_secret(self, account: str) -> WebhookSecret:
        """When the webhooks' secret was made."""
        return cast("WebhookSecret", self._call("GET", account, "/webhook-secret"))

    def rotate_webhook_secret(self, account: str) -> NewWebhookSecret:
        """Make the secret with which the account's webhooks are signed; the answer shows it, once."""
        return cast("NewWebhookSecret", self._call("POST", account, "/webhook-secret", creates=True))

    def _call(self, method: str, account: str, rest: str = "", **more: Any) -> Any:
        return self._connection.call(method, f"/v1/accounts/{segment(account)}{rest}", **more)
