"""`POST /v1/admin/queues:check`, its command, and the metric of the same invariants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from prometheus_client import generate_latest

from orchestrator import metrics
from orchestrator.control.violations import SHOWN_SECONDS, Violations
from orchestrator.loops.gauges import GaugeLoop
from orchestrator.runtime import Runtime
from tests.orchestrator.web.conftest import Api


def break_it(runtime: Runtime, redis_url: str) -> None:
    """An account with work that stands nowhere: nobody would ever start it."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.zrem(runtime.broker.keys.root("generate") + ":ready", "@acme") == 1


def test_a_check_names_and_repairs(
    api: Api, runtime: Runtime, new_job: Callable[..., dict[str, Any]], redis_url: str
) -> None:
    new_job("acme")
    assert api.post("/v1/admin/queues:check").json()["violations"] == 0
    break_it(runtime, redis_url)
    found = api.post("/v1/admin/queues:check").json()
    assert found["violations"] >= 1
    assert {(each["lane"], each["account"]) for each in found["items"]} == {("generate", "acme")}
    assert "stands_nowhere" in {each["kind"] for each in found["items"]}
    assert api.post("/v1/admin/queues:check").json()["items"] == []
    assert runtime.broker.queues_admin.totals("generate").ready == 1


def test_a_check_is_for_admins(api: Api, make_key: Callable[..., str]) -> None:
    assert api.with_key(make_key("acme")).post("/v1/admin/queues:check").status_code == 403


def test_the_metric_shows_a_violation_until_every_scrape_saw_it(
    runtime: Runtime, new_job: Callable[..., dict[str, Any]], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    runtime.violations = Violations(clock=lambda: now[0])
    loop = GaugeLoop(runtime)

    def shown() -> float:
        loop.run_once()
        text = generate_latest(metrics.REGISTRY).decode()
        line = next(
            each for each in text.splitlines() if each.startswith('onelane_invariant_violations{lane="generate"')
        )
        return float(line.rsplit(" ", 1)[1])

    new_job("acme")
    assert shown() == 0
    break_it(runtime, redis_url)
    assert shown() >= 1
    now[0] += SHOWN_SECONDS
    assert shown() >= 1
    now[0] += 1
    assert shown() == 0
    assert "invariant stands_nowhere did not hold, repaired" in caplog.text
