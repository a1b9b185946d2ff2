"""A fresh installation for a test of the contract, and the route that the test is of.

Each test makes its call as a client would and looks at what the contract says of the answer; the edges of each call are
tested in the modules beside this folder. The fixture `world` also looks at the audit after each test: a route that
changes something has recorded what was before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.runtime import Runtime
from orchestrator.web.app import ROUTES
from tenants.store.publishing import publications
from tests.orchestrator.web.conftest import Api, Bench

#: Marks a test with the method and path of the route that it is of.
route = pytest.mark.route
JOBS = "/v1/accounts/acme/jobs"
SCHEDULE = {"name": "mornings", "pipeline": "sample", "input": {"topic": "lanes"}, "every": 3600}


@dataclass(frozen=True)
class World:
    """One fresh installation, and what a test does with it."""

    api: Api
    bench: Bench
    runtime: Runtime
    new_job: Callable[..., dict[str, Any]]
    request: pytest.FixtureRequest

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/jobs/{job_id}").json()
        return found

    def failed_job(self) -> dict[str, Any]:
        """A job whose second step failed for good, which left a dead letter."""
        job = self.new_job()
        self.bench.complete(self.bench.start(job), {"title": "x"})
        self.bench.fail(self.bench.start(self.job(job["id"])))
        return self.job(job["id"])

    def letter(self) -> dict[str, Any]:
        self.failed_job()
        (found,) = self.api.get("/v1/admin/dead-letters").json()["items"]
        letter: dict[str, Any] = found
        return letter

    def awaiting(self) -> str:
        job = self.new_job(approval=True)
        self.bench.complete(self.bench.start(job), {"title": "x"})
        return str(job["id"])

    def draft(self) -> dict[str, Any]:
        owned = self.bench.start(self.new_job())
        self.bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=["a"]))
        draft: dict[str, Any] = self.api.get("/v1/drafts").json()["items"][0]
        return draft

    def unknown_publication(self) -> str:
        job = self.new_job()
        owned = self.bench.start(job)
        self.bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=[]))
        self.bench.complete(owned, {})
        owned = self.bench.start(self.job(job["id"]))
        self.bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
        self.bench.write(lambda c: publications.started(c, owned, 1))
        self.bench.write(lambda c: publications.unknown(c, owned, "the browser died"))
        self.bench.fail(owned, "outcome_unknown")
        return str(self.api.get("/v1/drafts?status=needs_review").json()["items"][0]["publication"]["id"])

    def schedule(self) -> str:
        return str(self.api.post("/v1/accounts/acme/schedules", SCHEDULE).json()["id"])


ROUTES_BY_NAME = {f"{each.method} {each.path}": each for each in ROUTES}
#: An export is recorded, although it changes nothing.
AUDITED_READS = {"GET /v1/accounts/{account}:export"}
#: Routes whose result did not exist before.
NOTHING_BEFORE = {
    "POST /v1/schedules/{id}:run",
    "POST /v1/admin/reap",
    "POST /v1/admin/queues:check",
    "POST /v1/admin/reconcile",
}


def check_audit(api: Api, name: str) -> None:
    """What the calls of this route have left in the audit."""
    entries = api.get("/v1/admin/audit?limit=200").json()["items"]
    recorded = [entry["details"] for entry in entries if entry["action"] == name]
    if not ROUTES_BY_NAME[name].audited:
        assert recorded == [] or name in AUDITED_READS
        return
    assert recorded, "a change leaves a row in the audit"
    for details in recorded:
        assert "after" in details, "the audit has what it became"
        assert "before" in details or name in NOTHING_BEFORE, "the audit has what it was"
