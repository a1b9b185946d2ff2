"""`POST /v1/admin/reconcile` and its command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions

from orchestrator.runtime import Runtime
from tenants.queues.errors import to_dramatiq
from tests.orchestrator.web.conftest import ON_BOTH, Api


@ON_BOTH
def test_reconcile_reports_what_it_did(api: Api, runtime: Runtime, new_job: Callable[..., dict[str, Any]]) -> None:
    new_job("acme")
    runtime.broker.queues_admin.purge("generate", "acme")
    answer = api.post("/v1/admin/reconcile")
    assert (answer.status_code, answer.json()) == (200, {"requeued": 1, "released": 0, "orphaned": 0})
    assert api.post("/v1/admin/reconcile").json() == {"requeued": 0, "released": 0, "orphaned": 0}
    last = api.get("/v1/admin/audit").json()["items"][0]
    assert "/v1/admin/reconcile" in str(last)


def test_reconcile_is_for_admins(api: Api, make_key: Callable[..., str]) -> None:
    assert api.with_key(make_key("acme")).post("/v1/admin/reconcile").status_code == 403


def test_reconcile_needs_redis(api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise to_dramatiq(redis.exceptions.ConnectionError("away"))

    monkeypatch.setattr(runtime.broker.server, "run_many", away)
    monkeypatch.setattr(runtime.broker.server, "command", away)
    answer = api.post("/v1/admin/reconcile")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
