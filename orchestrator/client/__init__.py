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

from .connection import ApiError, Connection, NotReachable, OnelaneClientError, Resource, given
from .resources import (
    FINISHED,
    RECONCILE_SECONDS,
    AccountsApi,
    DeadLettersApi,
    DraftsApi,
    JobsApi,
    PublicationsApi,
    QueuesApi,
    SchedulesApi,
)

__all__ = ["FINISHED", "ApiError", "NotReachable", "Onelane", "OnelaneClientError", "Resource"]


class Onelane(Connection):
    """A service with one key: its resources, and what is asked of the whole of it. Close it, or use it in a `with`."""

    def __init__(self, base_url: str, key: str, *, timeout_seconds: float = 30.0) -> None:
        super().__init__(base_url, key, timeout_seconds=timeout_seconds)
        self.jobs = JobsApi(self)
        self.accounts = AccountsApi(self)
        self.drafts = DraftsApi(self)
        self.schedules = SchedulesApi(self)
        self.publications = PublicationsApi(self)
        self.queues = QueuesApi(self)
        self.dead_letters = DeadLettersApi(self)

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
        return dict(self.call("POST", "/v1/admin/reap", json=given(idle_longer_than=idle_longer_than, dry_run=dry_run)))

    def reconcile(self) -> Resource:
        """Make Redis hold what SQL says: `{requeued, released, orphaned}`."""
        return dict(self.call("POST", "/v1/admin/reconcile", wait_seconds=RECONCILE_SECONDS))
