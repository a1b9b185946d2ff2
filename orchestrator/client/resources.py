"""The resources of the API, one class each, as attributes of `Onelane`.

Invariant: an account is percent-encoded whole, so `a/b` and `a:b` stay one segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from .connection import Connection, Resource, given

FINISHED = frozenset({"completed", "failed", "timed_out", "cancelled", "expired"})
#: A reconciliation, or a check, goes through every waiting step and message before it answers.
RECONCILE_SECONDS = 600.0


class _Api:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection


class JobsApi(_Api):
    """`/v1/jobs` and an account's jobs."""

    def create(
        self,
        account: str,
        pipeline: str,
        input: Mapping[str, Any],
        *,
        run_at: datetime | None = None,
        delay: float | None = None,
        priority: int | None = None,
        expires_in: float | None = None,
        deadline: float | None = None,
        approval: bool | None = None,
        unique_key: str | None = None,
        callback_url: str | None = None,
        tags: list[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Resource:
        """Accept a job: committed once this returns. Durations in seconds."""
        body = given(
            pipeline=pipeline,
            input=dict(input),
            run_at=run_at.isoformat() if run_at else None,
            delay=delay,
            priority=priority,
            expires_in=expires_in,
            deadline=deadline,
            approval=approval,
            unique_key=unique_key,
            callback_url=callback_url,
            tags=tags,
        )
        path = f"/v1/accounts/{_segment(account)}/jobs"
        return dict(self._connection.call("POST", path, json=body, idempotency_key=idempotency_key))

    def get(self, job_id: str, *, wait: float = 0) -> Resource:
        """The job with steps and attempts; with `wait` (0–60 s) once it has ended, or as it is by then."""
        path = f"/v1/jobs/{_segment(job_id)}"
        return dict(self._connection.call("GET", path, params={"wait": wait or None}, wait_seconds=wait))

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Summaries, newest first; filters: `account status pipeline tag q created_after created_before`."""
        return self._connection.pages("/v1/jobs", filters, limit)

    def cancel(self, job_id: str) -> Resource:
        return dict(self._connection.call("POST", f"/v1/jobs/{_segment(job_id)}:cancel"))

    def retry(self, job_id: str) -> Resource:
        """Let a failed, timed-out, cancelled or expired job go on from the step that failed."""
        return dict(self._connection.call("POST", f"/v1/jobs/{_segment(job_id)}:retry"))

    def approve(self, job_id: str) -> Resource:
        """Let a job that awaits approval run its last step."""
        return dict(self._connection.call("POST", f"/v1/jobs/{_segment(job_id)}:approve"))

    def reject(self, job_id: str, reason: str | None = None) -> Resource:
        """Refuse a job that awaits approval; its draft is discarded."""
        return dict(self._connection.call("POST", f"/v1/jobs/{_segment(job_id)}:reject", json=given(reason=reason)))

    def why(self, job_id: str) -> Sequence[Resource]:
        """Every reason why the job does not run now: `code`, `message`, and where they are known `until`, `count`."""
        return [dict(each) for each in self._connection.call("GET", f"/v1/jobs/{_segment(job_id)}/why")["items"]]

    def deliveries(self, job_id: str) -> Sequence[Resource]:
        """The calls of the job's `callback_url`, the oldest first, each with its `attempts`."""
        return [dict(each) for each in self._connection.call("GET", f"/v1/jobs/{_segment(job_id)}/deliveries")["items"]]

    def watch(self, job_id: str) -> Iterator[Resource]:
        """The job each time that it has changed, until it has ended; the last one is the ended job.

        It follows the job's events; a stream that breaks off is taken up again.
        """
        last: Resource | None = None
        for _ in self._connection.events(f"/v1/jobs/{_segment(job_id)}/events"):
            job = self.get(job_id)
            if job != last:
                yield job
                last = job
            if job["status"] in FINISHED:
                return


class AccountsApi(_Api):
    """`/v1/accounts` and what belongs to one."""

    def get(self, account: str) -> Resource:
        return dict(self._connection.call("GET", f"/v1/accounts/{_segment(account)}"))

    def put_target(self, account: str, publisher: str, base_url: str, options: Mapping[str, Any]) -> Resource:
        """Set where the account publishes."""
        body = {"publisher": publisher, "base_url": base_url, "options": dict(options)}
        return dict(self._connection.call("PUT", f"/v1/accounts/{_segment(account)}/target", json=body))

    def put_session(
        self,
        account: str,
        *,
        storage_state: Mapping[str, Any] | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> Resource:
        """Set the account's browser session, or the user name and password to sign in with; both are sealed."""
        body = given(
            storage_state=storage_state,
            credentials={"username": credentials[0], "password": credentials[1]} if credentials else None,
        )
        return dict(self._connection.call("PUT", f"/v1/accounts/{_segment(account)}/session", json=body))

    def rotate_webhook_secret(self, account: str) -> Resource:
        """Make the secret with which the account's webhooks are signed; the answer shows it, once."""
        return dict(self._connection.call("POST", f"/v1/accounts/{_segment(account)}/webhook-secret"))

    def create_key(self, account: str, name: str = "") -> Resource:
        """Make a key with scope `account`; the answer shows it, once."""
        body = {"name": name} if name else {}
        return dict(self._connection.call("POST", f"/v1/accounts/{_segment(account)}/keys", json=body))


class DraftsApi(_Api):
    """`/v1/drafts`."""

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Drafts, newest first; filters: `account status`."""
        return self._connection.pages("/v1/drafts", filters, limit)

    def get(self, draft_id: str) -> Resource:
        return dict(self._connection.call("GET", f"/v1/drafts/{_segment(draft_id)}"))


class PublicationsApi(_Api):
    """`/v1/admin/publications`: outcomes that nobody could tell, settled by somebody who has looked."""

    def confirm(self, publication_id: str, url: str, external_id: str | None = None) -> Resource:
        """The post is there: the job goes on without publishing."""
        path = f"/v1/admin/publications/{_segment(publication_id)}:confirm"
        return dict(self._connection.call("POST", path, json=given(url=url, external_id=external_id)))

    def retry(self, publication_id: str) -> Resource:
        """The post is not there: the job publishes anew, once."""
        return dict(self._connection.call("POST", f"/v1/admin/publications/{_segment(publication_id)}:retry"))


class SchedulesApi(_Api):
    """`/v1/schedules` and an account's schedules. Fields are those of the API; times as RFC 3339 text."""

    def create(
        self, account: str, name: str, pipeline: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> Resource:
        """Make a schedule; `fields` hold one of `cron every at spread`, and whatever else the API takes."""
        body = {"name": name, "pipeline": pipeline, **fields}
        path = f"/v1/accounts/{_segment(account)}/schedules"
        return dict(self._connection.call("POST", path, json=body, idempotency_key=idempotency_key))

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Summaries, newest first; filter: `account`."""
        return self._connection.pages("/v1/schedules", filters, limit)

    def get(self, schedule_id: str) -> Resource:
        return dict(self._connection.call("GET", f"/v1/schedules/{_segment(schedule_id)}"))

    def change(self, schedule_id: str, **changes: Any) -> Resource:
        """Set some fields; None takes one away."""
        return dict(self._connection.call("PATCH", f"/v1/schedules/{_segment(schedule_id)}", json=changes))

    def delete(self, schedule_id: str) -> None:
        """Remove a schedule; its jobs stay."""
        self._connection.call("DELETE", f"/v1/schedules/{_segment(schedule_id)}")

    def run(self, schedule_id: str, *, idempotency_key: str | None = None) -> Resource:
        """Make its job now; the answer is the job."""
        path = f"/v1/schedules/{_segment(schedule_id)}:run"
        return dict(self._connection.call("POST", path, idempotency_key=idempotency_key))

    def preview(self, *, count: int = 10, **fields: Any) -> Sequence[str]:
        """The next times of a schedule that need not exist."""
        answer = self._connection.call("POST", "/v1/schedules:preview", json={**fields, "count": count})
        return list(answer["items"])

    def fires(self, schedule_id: str, *, limit: int | None = 50) -> Iterator[Resource]:
        """What became of its times, newest first."""
        return self._connection.pages(f"/v1/schedules/{_segment(schedule_id)}/fires", {}, limit)


class QueuesApi(_Api):
    """Live tenant queues: `/v1/admin/queues`."""

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Tenant queues; filters: `lane account idle_longer_than`."""
        return self._connection.pages("/v1/admin/queues", filters, limit)

    def delete(self, lane: str, account: str, *, force: bool = False) -> Resource:
        """Tear a tenant queue down; `force` cancels what waits in it."""
        path = f"/v1/admin/queues/{_segment(lane)}/{_segment(account)}"
        return dict(self._connection.call("DELETE", path, params={"force": "true" if force else None}))

    def check(self) -> Resource:
        """Check and mend the broker's invariants: `{lanes, violations, items}`."""
        return dict(self._connection.call("POST", "/v1/admin/queues:check", wait_seconds=RECONCILE_SECONDS))


class DeadLettersApi(_Api):
    """`/v1/admin/dead-letters`."""

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Dead letters, newest first; filters: `account lane pipeline error_code`."""
        return self._connection.pages("/v1/admin/dead-letters", filters, limit)

    def get(self, dead_letter_id: str) -> Resource:
        return dict(self._connection.call("GET", f"/v1/admin/dead-letters/{_segment(dead_letter_id)}"))

    def replay(self, dead_letter_id: str) -> Resource:
        """Let its job go on from the step that died; the answer is the job."""
        return dict(self._connection.call("POST", f"/v1/admin/dead-letters/{_segment(dead_letter_id)}:replay"))

    def discard(self, dead_letter_id: str) -> None:
        self._connection.call("DELETE", f"/v1/admin/dead-letters/{_segment(dead_letter_id)}")


def _segment(value: str) -> str:
    return quote(value, safe="")
