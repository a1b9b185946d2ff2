"""Alerts and circuits as an operator meets them over HTTP and by command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from orchestrator.web.app import create_app
from tenants.store.accounts import circuits
from tenants.store.accounts.circuits import CircuitPolicy
from tenants.store.attempt import OwnedAttempt
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.alerts.alert_receiver import SECRET, Receiver
from tests.orchestrator.web.commands import Command
from tests.orchestrator.web.conftest import ADMIN_KEY, ON_BOTH, Api, Bench

QUEUE = "/v1/admin/queues/generate/acme"


@pytest.fixture
def waiting(runtime: Runtime, bench: Bench, new_job: Any) -> dict[str, Any]:
    """A job of an account whose circuit is open."""
    bench.fail(open_circuit(bench, new_job()))
    runtime.settings_sync.sync_account("acme")
    job: dict[str, Any] = new_job()
    return job


def open_circuit(bench: Bench, job: dict[str, Any]) -> OwnedAttempt:
    """As the end of the job's step that is queued would; gives back the attempt, which runs."""
    owned = bench.start(job)
    bench.write(lambda c: circuits.failed(c, owned, CircuitPolicy(1, 3600.0), "publish_failed"))
    return owned


def why(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    return {each["code"]: each for each in api.get(f"/v1/jobs/{job['id']}/why").json()["items"]}


@ON_BOTH
def test_an_open_circuit_shows_wherever_the_queue_does(api: Api, waiting: dict[str, Any]) -> None:
    found = why(api, waiting)
    assert datetime.fromisoformat(found["circuit_open"]["until"]) > datetime.now(UTC)
    assert "queue_paused" not in found
    (lane,) = [each for each in api.get("/v1/accounts/acme").json()["lanes"] if each["lane"] == "generate"]
    (listed,) = api.get("/v1/admin/queues?account=acme").json()["items"]
    for shown in (lane, listed, api.get(QUEUE).json()):
        assert shown["paused"]
        assert shown["circuit"]["status"] == "open"
        assert shown["circuit"]["until"] == found["circuit_open"]["until"]
    (other,) = [each for each in api.get("/v1/accounts/acme").json()["lanes"] if each["lane"] != "generate"]
    assert (other["paused"], other["circuit"]) == (False, None)


@ON_BOTH
@pytest.mark.parametrize("path", [f"{QUEUE}:resume", "/v1/accounts/acme:resume"])
def test_resume_closes_it(api: Api, runtime: Runtime, waiting: dict[str, Any], path: str) -> None:
    assert api.post(path).status_code == 200
    assert api.get("/v1/admin/circuits").json()["items"] == []
    assert not why(api, waiting).keys() & {"circuit_open", "queue_paused"}
    found = runtime.broker.queues_admin.describe("generate", "acme")
    assert found is not None
    assert not found.paused


@ON_BOTH
def test_a_new_session_closes_the_circuits_of_the_lanes_that_use_it(
    api: Api, bench: Bench, runtime: Runtime, waiting: dict[str, Any]
) -> None:
    other = bench.runtime.jobs.get(waiting["id"])
    bench.write(lambda c: circuits.close(c, "acme", "generate"))
    bench.complete(bench.start(other), {"title": "x"})
    open_circuit(bench, bench.runtime.jobs.get(waiting["id"]))
    open_circuit(bench, runtime.jobs.create("acme", JobPlan("sample", {"topic": "lanes"}))[0])
    runtime.settings_sync.sync_account("acme")
    assert [each["lane"] for each in api.get("/v1/admin/circuits").json()["items"]] == ["generate", "publish"]
    assert api.put("/v1/accounts/acme/session", {"storage_state": {"cookies": []}}).status_code == 200
    assert [each["lane"] for each in api.get("/v1/admin/circuits").json()["items"]] == ["generate"]
    found = runtime.broker.queues_admin.describe("publish", "acme")
    assert found is None or not found.paused
    (row, *_) = api.get("/v1/admin/audit").json()["items"]
    assert row["details"]["circuits_closed"] == ["publish"]


def test_a_pause_and_its_end_of_one_lane_leave_the_circuit_of_another(api: Api, waiting: dict[str, Any]) -> None:
    api.post("/v1/admin/queues/publish/acme:resume")
    api.post("/v1/accounts/acme:pause")
    assert len(api.get("/v1/admin/circuits").json()["items"]) == 1


def test_open_circuits_come_by_pages(api: Api, bench: Bench, new_job: Any) -> None:
    for account in ("c", "a%2Fb", "a"):
        open_circuit(bench, new_job(account))
    first = api.get("/v1/admin/circuits?limit=2").json()
    rest = api.get(f"/v1/admin/circuits?limit=2&cursor={first['next_cursor']}").json()
    assert [each["account"] for each in first["items"] + rest["items"]] == ["a", "a/b", "c"]
    assert rest["next_cursor"] is None


def test_the_commands(command: Command, api: Api, waiting: dict[str, Any]) -> None:
    listed = json.loads(command("alerts", "list", "--json"))["items"]
    assert [each["kind"] for each in listed] == ["dead_letter", "circuit_open"]
    assert "onelane dead-letters list --account acme" in listed[0]["commands"]
    assert "publish_failed" in command("alerts", "list", "--kind", "dead_letter")
    assert "generate_acme" in command("alerts", "circuits")
    assert "open, in 60 min" in command("accounts", "get", "acme")
    assert json.loads(command("alerts", "test", "--json", status=1)) == {"items": []}
    command("queues", "resume", "generate", "acme")
    assert json.loads(command("alerts", "circuits", "--json")) == {"items": []}


@pytest.fixture
def with_channels(settings_of: Callable[..., Settings], migrated_url: str) -> Iterator[tuple[Api, Receiver, Runtime]]:
    """The API of a service whose alerts go to a receiver, and to one that is not there."""
    with contextlib.closing(Receiver()) as receiver:
        nowhere = f"json://robot:{SECRET}@127.0.0.1:1/{SECRET}"
        runtime = Runtime(settings_of(migrated_url, alert_urls=[receiver.url.get_secret_value(), nowhere]))
        with contextlib.closing(runtime), TestClient(create_app(runtime)) as client:
            yield Api(client, ADMIN_KEY), receiver, runtime


def test_a_test_message_reports_which_channel_took_it(with_channels: tuple[Api, Receiver, Runtime]) -> None:
    api, receiver, _ = with_channels
    answer = api.post("/v1/admin/alerts:test")
    assert answer.json() == {
        "items": [
            {"position": 1, "kind": "json", "delivered": True},
            {"position": 2, "kind": "json", "delivered": False},
        ]
    }
    assert receiver.got[0]["title"] == "onelane: a test"
    assert SECRET not in answer.text + api.get("/v1/admin/audit").text + api.get("/metrics").text
