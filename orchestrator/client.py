"""A small synchronous client of the HTTP API, used by the command line itself.

    with Onelane("http://127.0.0.1:8700", key) as onelane:
        job = onelane.jobs.create("acme", "blog", {"topic": "Lanes"})
        for job in onelane.jobs.watch(job["id"]):
            print(job["status"])

Resources come as `/openapi.json` describes them: plain dicts with times as RFC 3339 text. Everything that goes wrong
is an `OnelaneClientError`:

    OnelaneClientError
    ├── ApiError         the service refused: status, stable code, detail, the faults by field
    └── NotReachable     no service answered at that address, or it broke off

Invariants: an account is percent-encoded whole, so `a/b` and `a:b` stay one segment; no request is repeated by
itself, only a stream of events that breaks off is taken up again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

Resource = dict[str, Any]

_logger = logging.getLogger(__name__)

FINISHED = frozenset({"completed", "failed", "timed_out", "cancelled", "expired"})
_PAGE = 200
#: A stream that says nothing for so long is dead: a comment comes every 15 seconds.
_SILENCE_SECONDS = 45.0
_RECONNECT_SECONDS = 0.5
#: A reconciliation goes through every waiting step and message before it answers.
_RECONCILE_SECONDS = 600.0


class OnelaneClientError(Exception):
    """Base of what this client raises."""


class NotReachable(OnelaneClientError):
    """No service answered; the message says where it was looked for."""


class ApiError(OnelaneClientError):
    """The service refused. `code` is the problem document's stable word; `errors` are pairs of place and message."""

    def __init__(self, status: int, code: str, detail: str, errors: list[tuple[str, str]], request_id: str) -> None:
        lines = [f"{detail or code} ({status} {code})", *(f"  {place}: {message}" for place, message in errors)]
        super().__init__("\n".join(lines))
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id


class Onelane:
    """One connection pool to one service, with one key; close it, or use it in a `with`."""

    def __init__(self, base_url: str, key: str, *, timeout_seconds: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._stream_timeout = httpx2.Timeout(timeout_seconds, read=_SILENCE_SECONDS)
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "onelane-client"},
            timeout=timeout_seconds,
            # A proxy of the environment is for far hosts; it could not reach this machine's loopback.
            trust_env=not _is_loopback(self.base_url),
        )
        self.jobs = JobsApi(self)
        self.accounts = AccountsApi(self)
        self.drafts = DraftsApi(self)
        self.schedules = SchedulesApi(self)
        self.publications = PublicationsApi(self)
        self.queues = QueuesApi(self)
        self.dead_letters = DeadLettersApi(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def pipelines(self) -> list[Resource]:
        """Name, steps, lanes, limits and input schema of each pipeline."""
        return list(self.call("GET", "/v1/pipelines")["items"])

    def workers(self) -> list[Resource]:
        """The live workers."""
        return list(self.call("GET", "/v1/admin/workers")["items"])

    def ready(self) -> Resource:
        """`/readyz`: `{"status": "ok" | "degraded", "parts": {…}}`; an `ApiError` with status 503 when down."""
        return dict(self.call("GET", "/readyz"))

    def reap(self, idle_longer_than: float | None = None, *, dry_run: bool = False) -> Resource:
        """Remove idle tenant queues; `idle_longer_than` in seconds."""
        return dict(
            self.call("POST", "/v1/admin/reap", json=_given(idle_longer_than=idle_longer_than, dry_run=dry_run))
        )

    def reconcile(self) -> Resource:
        """Make Redis hold what SQL says: `{requeued, released, orphaned}`."""
        return dict(self.call("POST", "/v1/admin/reconcile", wait_seconds=_RECONCILE_SECONDS))

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        wait_seconds: float = 0.0,
    ) -> Any:
        """One request; gives back the answer's JSON, None for an empty answer.

        Raises:
            NotReachable: nobody answered within the time-out, which `wait_seconds` lengthens.
            ApiError: any status of 400 or more.
        """
        try:
            answer = self._http.request(
                method,
                path,
                json=json,
                params=None if params is None else _given(**params),
                headers={"Idempotency-Key": idempotency_key} if idempotency_key else None,
                timeout=self._timeout_seconds + wait_seconds,
            )
        except httpx2.TransportError as error:
            raise self._not_reachable(error) from error
        if answer.status_code >= 400:
            raise _api_error(answer)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise NotReachable(f"what answers at {self.base_url} is not onelane: {path} is no JSON") from error

    def events(self, path: str) -> Iterator[str]:
        """The name of each event of a stream, from a `snapshot` on; it connects again whenever the stream ends.

        Raises:
            NotReachable: nobody answers any more. ApiError: the service refused.
        """
        while True:
            try:
                with self._http.stream("GET", path, timeout=self._stream_timeout) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        raise _api_error(answer)
                    # A snapshot is as large as its job, which the service bounds.
                    for event in httpx2.EventSource(answer, max_event_size=None):
                        yield event.event
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.SSEError) as error:
                raise self._not_reachable(error) from error
            except httpx2.TransportError as error:
                _logger.debug("The stream %s broke off, taking it up again: %s", path, error)
            time.sleep(_RECONNECT_SECONDS)  # a server that closes each stream at once must not be hammered

    def _not_reachable(self, error: Exception) -> NotReachable:
        return NotReachable(f"no onelane service answers at {self.base_url}: {str(error) or type(error).__name__}")

    def pages(self, path: str, params: Mapping[str, Any], limit: int | None) -> Iterator[Resource]:
        """The items of a list over all its pages, newest first; at most `limit`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = self.call(
                "GET", path, params={**params, "cursor": cursor, "limit": _PAGE if left is None else min(_PAGE, left)}
            )
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])


class _Api:
    def __init__(self, client: Onelane) -> None:
        self._client = client


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
        body = _given(
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
        return dict(self._client.call("POST", path, json=body, idempotency_key=idempotency_key))

    def get(self, job_id: str, *, wait: float = 0) -> Resource:
        """The job with steps and attempts; with `wait` (0–60 s) once it has ended, or as it is by then."""
        path = f"/v1/jobs/{_segment(job_id)}"
        return dict(self._client.call("GET", path, params={"wait": wait or None}, wait_seconds=wait))

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Summaries, newest first; filters: `account status pipeline tag q created_after created_before`."""
        return self._client.pages("/v1/jobs", filters, limit)

    def cancel(self, job_id: str) -> Resource:
        return dict(self._client.call("POST", f"/v1/jobs/{_segment(job_id)}:cancel"))

    def retry(self, job_id: str) -> Resource:
        """Let a failed, timed-out, cancelled or expired job go on from the step that failed."""
        return dict(self._client.call("POST", f"/v1/jobs/{_segment(job_id)}:retry"))

    def approve(self, job_id: str) -> Resource:
        """Let a job that awaits approval run its last step."""
        return dict(self._client.call("POST", f"/v1/jobs/{_segment(job_id)}:approve"))

    def reject(self, job_id: str, reason: str | None = None) -> Resource:
        """Refuse a job that awaits approval; its draft is discarded."""
        return dict(self._client.call("POST", f"/v1/jobs/{_segment(job_id)}:reject", json=_given(reason=reason)))

    def why(self, job_id: str) -> Sequence[Resource]:
        """Every reason why the job does not run now: `code`, `message`, and where they are known `until`, `count`."""
        return [dict(each) for each in self._client.call("GET", f"/v1/jobs/{_segment(job_id)}/why")["items"]]

    def watch(self, job_id: str) -> Iterator[Resource]:
        """The job each time that it has changed, until it has ended; the last one is the ended job.

        It follows the job's events; a stream that breaks off is taken up again.
        """
        last: Resource | None = None
        for _ in self._client.events(f"/v1/jobs/{_segment(job_id)}/events"):
            job = self.get(job_id)
            if job != last:
                yield job
                last = job
            if job["status"] in FINISHED:
                return


class AccountsApi(_Api):
    """`/v1/accounts` and what belongs to one."""

    def get(self, account: str) -> Resource:
        return dict(self._client.call("GET", f"/v1/accounts/{_segment(account)}"))

    def put_target(self, account: str, publisher: str, base_url: str, options: Mapping[str, Any]) -> Resource:
        """Set where the account publishes."""
        body = {"publisher": publisher, "base_url": base_url, "options": dict(options)}
        return dict(self._client.call("PUT", f"/v1/accounts/{_segment(account)}/target", json=body))

    def put_session(
        self,
        account: str,
        *,
        storage_state: Mapping[str, Any] | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> Resource:
        """Set the account's browser session, or the user name and password to sign in with; both are sealed."""
        body = _given(
            storage_state=storage_state,
            credentials={"username": credentials[0], "password": credentials[1]} if credentials else None,
        )
        return dict(self._client.call("PUT", f"/v1/accounts/{_segment(account)}/session", json=body))

    def create_key(self, account: str, name: str = "") -> Resource:
        """Make a key with scope `account`; the answer shows it, once."""
        body = {"name": name} if name else {}
        return dict(self._client.call("POST", f"/v1/accounts/{_segment(account)}/keys", json=body))


class DraftsApi(_Api):
    """`/v1/drafts`."""

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Drafts, newest first; filters: `account status`."""
        return self._client.pages("/v1/drafts", filters, limit)

    def get(self, draft_id: str) -> Resource:
        return dict(self._client.call("GET", f"/v1/drafts/{_segment(draft_id)}"))


class PublicationsApi(_Api):
    """`/v1/admin/publications`: outcomes that nobody could tell, settled by somebody who has looked."""

    def confirm(self, publication_id: str, url: str, external_id: str | None = None) -> Resource:
        """The post is there: the job goes on without publishing."""
        path = f"/v1/admin/publications/{_segment(publication_id)}:confirm"
        return dict(self._client.call("POST", path, json=_given(url=url, external_id=external_id)))

    def retry(self, publication_id: str) -> Resource:
        """The post is not there: the job publishes anew, once."""
        return dict(self._client.call("POST", f"/v1/admin/publications/{_segment(publication_id)}:retry"))


class SchedulesApi(_Api):
    """`/v1/schedules` and an account's schedules. Fields are those of the API; times as RFC 3339 text."""

    def create(
        self, account: str, name: str, pipeline: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> Resource:
        """Make a schedule; `fields` hold one of `cron every at spread`, and whatever else the API takes."""
        body = {"name": name, "pipeline": pipeline, **fields}
        path = f"/v1/accounts/{_segment(account)}/schedules"
        return dict(self._client.call("POST", path, json=body, idempotency_key=idempotency_key))

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Summaries, newest first; filter: `account`."""
        return self._client.pages("/v1/schedules", filters, limit)

    def get(self, schedule_id: str) -> Resource:
        return dict(self._client.call("GET", f"/v1/schedules/{_segment(schedule_id)}"))

    def change(self, schedule_id: str, **changes: Any) -> Resource:
        """Set some fields; None takes one away."""
        return dict(self._client.call("PATCH", f"/v1/schedules/{_segment(schedule_id)}", json=changes))

    def delete(self, schedule_id: str) -> None:
        """Remove a schedule; its jobs stay."""
        self._client.call("DELETE", f"/v1/schedules/{_segment(schedule_id)}")

    def run(self, schedule_id: str, *, idempotency_key: str | None = None) -> Resource:
        """Make its job now; the answer is the job."""
        path = f"/v1/schedules/{_segment(schedule_id)}:run"
        return dict(self._client.call("POST", path, idempotency_key=idempotency_key))

    def preview(self, *, count: int = 10, **fields: Any) -> Sequence[str]:
        """The next times of a schedule that need not exist."""
        answer = self._client.call("POST", "/v1/schedules:preview", json={**fields, "count": count})
        return list(answer["items"])

    def fires(self, schedule_id: str, *, limit: int | None = 50) -> Iterator[Resource]:
        """What became of its times, newest first."""
        return self._client.pages(f"/v1/schedules/{_segment(schedule_id)}/fires", {}, limit)


class QueuesApi(_Api):
    """Live tenant queues: `/v1/admin/queues`."""

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Tenant queues; filters: `lane account idle_longer_than`."""
        return self._client.pages("/v1/admin/queues", filters, limit)

    def delete(self, lane: str, account: str, *, force: bool = False) -> Resource:
        """Tear a tenant queue down; `force` cancels what waits in it."""
        path = f"/v1/admin/queues/{_segment(lane)}/{_segment(account)}"
        return dict(self._client.call("DELETE", path, params={"force": "true" if force else None}))

    def check(self) -> Resource:
        """Check and mend the broker's invariants: `{lanes, violations, items}`."""
        return dict(self._client.call("POST", "/v1/admin/queues:check", wait_seconds=_RECONCILE_SECONDS))


class DeadLettersApi(_Api):
    """`/v1/admin/dead-letters`."""

    def list(self, *, limit: int | None = 50, **filters: Any) -> Iterator[Resource]:
        """Dead letters, newest first; filters: `account lane pipeline error_code`."""
        return self._client.pages("/v1/admin/dead-letters", filters, limit)

    def get(self, dead_letter_id: str) -> Resource:
        return dict(self._client.call("GET", f"/v1/admin/dead-letters/{_segment(dead_letter_id)}"))

    def replay(self, dead_letter_id: str) -> Resource:
        """Let its job go on from the step that died; the answer is the job."""
        return dict(self._client.call("POST", f"/v1/admin/dead-letters/{_segment(dead_letter_id)}:replay"))

    def discard(self, dead_letter_id: str) -> None:
        self._client.call("DELETE", f"/v1/admin/dead-letters/{_segment(dead_letter_id)}")


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _segment(value: str) -> str:
    return quote(value, safe="")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _api_error(answer: httpx2.Response) -> ApiError:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    errors = [
        (".".join(str(part) for part in each.get("loc", ())) or "request", str(each.get("message", "")))
        for each in problem.get("errors") or ()
        if isinstance(each, dict)
    ]
    return ApiError(
        answer.status_code,
        str(problem.get("code") or "unknown"),
        str(problem.get("detail") or problem.get("title") or answer.reason_phrase),
        errors,
        answer.headers.get("x-request-id", ""),
    )
