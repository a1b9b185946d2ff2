"""A small synchronous client of the HTTP API, which the command line uses too.

    with Onelane("http://127.0.0.1:8700", key) as onelane:
        job = onelane.jobs.create("acme", "blog", {"topic": "Lanes"})
        for job in onelane.jobs.watch(job["id"]):
            print(job["status"])

Resources are typed dicts of `orchestrator.client.types`, as the service sends them; times are RFC 3339 text. For the
errors see `orchestrator.client.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from .accounts import AccountsApi
from .admin import LONG_SECONDS, DeadLettersApi, KeysApi, LanesApi, QueuesApi
from .alerts import AlertsApi
from .connection import Connection, Event, given
from .drafts import DraftsApi, PublicationsApi
from .errors import (
    ApiError,
    Conflict,
    ExportCut,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotReachable,
    OnelaneClientError,
    ServiceFailed,
    TooMany,
    Unauthenticated,
)
from .jobs import FINISHED, JobRequest, JobsApi, LogLine
from .schedules import SchedulesApi
from .types import Audit, Pipeline, Ready, Reaped, Reconciled, Worker

__all__ = [
    "FINISHED",
    "ApiError",
    "Conflict",
    "Event",
    "ExportCut",
    "Forbidden",
    "InvalidRequest",
    "JobRequest",
    "LogLine",
    "NotFound",
    "NotReachable",
    "Onelane",
    "OnelaneClientError",
    "Resource",
    "ServiceFailed",
    "TooMany",
    "Unauthenticated",
]

#: Any resource.
Resource = Mapping[str, Any]


class Onelane(Connection):
    """A client of one service with one key. Close it, or use it in a `with`."""

    def __init__(self, base_url: str, key: str, *, timeout_seconds: float = 30.0, retries: int = 2) -> None:
        super().__init__(base_url, key, timeout_seconds=timeout_seconds, retries=retries)
        self.jobs = JobsApi(self)
        self.accounts = AccountsApi(self)
        self.drafts = DraftsApi(self)
        self.schedules = SchedulesApi(self)
        self.publications = PublicationsApi(self)
        self.queues = QueuesApi(self)
        self.lanes = LanesApi(self)
        self.dead_letters = DeadLettersApi(self)
        self.alerts = AlertsApi(self)
        self.keys = KeysApi(self)

    def pipelines(self) -> list[Pipeline]:
        """Name, steps, lanes, limits and input schema of each pipeline."""
        return cast("list[Pipeline]", self.call("GET", "/v1/pipelines")["items"])

    def workers(self) -> Sequence[Worker]:
        """The live workers, and their running steps."""
        return cast("list[Worker]", self.call("GET", "/v1/admin/workers")["items"])

    def audit(
        self,
        *,
        limit: int | None = 50,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
    ) -> Iterator[Audit]:
        """Who changed what, newest first; each filter must equal its field."""
        return self.pages("/v1/admin/audit", {"actor": actor, "action": action, "target": target}, limit)

    def ready(self) -> Ready:
        """The service's readiness; raises `ServiceFailed` if it accepts no jobs."""
        return cast("Ready", self.call("GET", "/readyz"))

    def reap(self, idle_longer_than: float | None = None, *, dry_run: bool = False) -> Reaped:
        """Delete idle tenant queues; `idle_longer_than` in seconds."""
        body = given(idle_longer_than=idle_longer_than, dry_run=dry_run)
        return cast("Reaped", self.call("POST", "/v1/admin/reap", json=body, wait_seconds=LONG_SECONDS))

    def reconcile(self) -> Reconciled:
        """Rebuild the Redis queues from SQL."""
        return cast("Reconciled", self.call("POST", "/v1/admin/reconcile", wait_seconds=LONG_SECONDS))
