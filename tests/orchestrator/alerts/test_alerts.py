"""Alerts as they reach people, and circuits as they hold a running service: real receivers and workers."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import delete, select, update

from orchestrator.loops.alerts import AlertLoop
from orchestrator.loops.reconciler import Reconciler
from orchestrator.loops.settings_sync import SettingsSyncLoop
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Alert, AlertHour, TenantQueue
from tenants.store import workers
from tenants.store.accounts import circuits, queues
from tenants.store.attempt import OwnedAttempt
from tenants.store.dead_letters import alerts
from tenants.store.job_store import job_store
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs.create import JobPlan, StepPlan
from tenants.store.steps import finish as finish_steps
from tests.orchestrator.alerts.alert_receiver import SECRET, Receiver
from tests.orchestrator.conftest import Service, make_service
from tests.support.ports import step_port

TABLE = Alert.__table__
#: What SQL decides is held on both databases by the store's tests; here one is enough for most.
ON_SQLITE = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with contextlib.closing(Receiver()) as made:
        yield made


@pytest.fixture
def planes(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """Control planes over one database, each with the settings that it is given."""
    with contextlib.ExitStack() as stack:

        def make(**more: Any) -> Runtime:
            service = make_service(migrated_url, redis_url, tmp_path)
            service.runtime.close()
            return stack.enter_context(
                contextlib.closing(Runtime(service.settings.model_copy(update={"alert_every": 3600.0, **more})))
            )

        yield make


def note(runtime: Runtime, account: str = "acme", code: str = "publish_failed") -> None:
    letter = {"id": "l1", "account": account, "lane": "publish", "pipeline": "blog", "job_id": None, "error_code": code}
    runtime.database.write(lambda c: alerts.dead_letter(c, letter, step="publish"))


def let_all_be_due(runtime: Runtime) -> None:
    def work(c: Any) -> None:
        c.execute(update(TABLE).where(TABLE.c.due_at.is_not(None)).values(due_at=db_now(-1.0)))
        c.execute(update(TABLE).values(rest_until=db_now(-1.0)))
        c.execute(delete(AlertHour.__table__))

    runtime.database.write(work)


def drain(*loops: AlertLoop) -> None:
    """Run the loops at once, each until it has nothing to do."""

    def run(loop: AlertLoop) -> None:
        while loop.run_once():
            continue

    threads = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


# --- the channels --------------------------------------------------------------------------------------------------


def test_two_control_planes_send_each_alert_once(planes: Callable[..., Runtime], receiver: Receiver) -> None:
    first, second = planes(alert_urls=(receiver.url,)), planes(alert_urls=(receiver.url,))
    for number in range(20):
        note(first, f"account {number:02}")
    drain(AlertLoop(first), AlertLoop(second))
    titles = [each["title"] for each in receiver.got]
    assert sorted(titles) == [f"onelane: a step will not be tried again (account {n:02})" for n in range(20)]


@ON_SQLITE
def test_alerts_of_one_kind_are_sent_with_their_number(planes: Callable[..., Runtime], receiver: Receiver) -> None:
    runtime = planes(alert_urls=(receiver.url,))
    loop = AlertLoop(runtime)
    for _ in range(3):
        note(runtime, code="provider_error")
    drain(loop)
    for _ in range(42):
        note(runtime, code="provider_error")
    drain(loop)
    let_all_be_due(runtime)
    drain(loop)
    first, second = (each["message"] for each in receiver.got)
    assert "and 2 more like it" in first
    assert "and 41 more like it" in second
    assert "error code: provider_error" in first
    assert "onelane dead-letters replay l1" in first
    assert "onelane dead-letters list --account acme" in first


@ON_SQLITE
def test_beyond_the_limit_one_message_has_the_rest(planes: Callable[..., Runtime], receiver: Receiver) -> None:
    runtime = planes(alert_urls=(receiver.url,), alerts_per_hour=3)
    for number in range(30):
        note(runtime, f"account {number}")
    drain(AlertLoop(runtime))
    (message,) = receiver.got
    assert message["title"] == "onelane: 30 alerts together"
    assert "30 dead letters, of 30 accounts" in message["message"]


@ON_SQLITE
def test_a_channel_that_was_down_gets_it_later_and_the_other_only_once(
    planes: Callable[..., Runtime], receiver: Receiver
) -> None:
    with contextlib.closing(Receiver()) as other:
        runtime = planes(alert_urls=(receiver.url, other.url))
        receiver.status = 503
        note(runtime)
        drain(AlertLoop(runtime))
        assert (receiver.tries, len(other.got)) == (1, 1)
        receiver.status = 200
        let_all_be_due(runtime)
        drain(AlertLoop(runtime))
        assert (len(receiver.got), len(other.got)) == (1, 1)
        assert receiver.got[0]["message"] == other.got[0]["message"]
        let_all_be_due(runtime)
        drain(AlertLoop(runtime))
        assert (len(receiver.got), len(other.got)) == (1, 1)


@ON_SQLITE
def test_no_secret_leaves_or_is_logged(
    planes: Callable[..., Runtime], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what an error said nor what stands in a channel's URL: with the log at its most talkative, and raw."""
    caplog.set_level(logging.DEBUG)
    leak = "sk-live-0011223344"
    nowhere = SecretStr(f"json://robot:{SECRET}@127.0.0.1:1/hooks/{SECRET}-path")
    runtime = planes(alert_urls=(receiver.url, nowhere))
    owned = fail(runtime, message=f"the page said {leak}", code="publish_failed")
    fail(runtime, message="", code=f"odd {leak}")
    drain(AlertLoop(runtime))
    assert len(receiver.got) == 2
    sent = "\n".join(receiver.raw)
    assert owned.job_id in sent
    kept = str(runtime.database.read(lambda c: c.execute(select(TABLE)).all()))
    for text in (sent, kept, caplog.text, repr(runtime.settings)):
        assert leak not in text
        assert SECRET not in text
    assert "channel 2 (json)" in caplog.text, "the log names the one that failed"


def fail(runtime: Runtime, *, message: str, code: str) -> OwnedAttempt:
    """A job whose step ends for good, moved by the store as a worker would."""
    database = runtime.database
    plan = JobPlan(pipeline="quick", input={}, steps=(StepPlan("quick", "quick", True, 1),))
    made = database.write(lambda c: create_jobs.create(c, "acme", [plan]))
    known = [row["id"] for row in database.read(workers.live)]
    if "w" not in known:
        database.write(lambda c: workers.register(c, id="w", host="h", pid=1, lanes=["quick"], threads=1))
    owned = job_store(database).start(made.queued[0].id, worker_id="w", slot=0)
    assert isinstance(owned, OwnedAttempt)
    error = {"code": code, "message": message}
    database.write(
        lambda c: finish_steps.fail(
            c, owned, outcome="failed", error=error, traceback=message, message={"args": [message]}
        )
    )
    return owned


@ON_SQLITE
def test_without_channels_alerts_wait_in_the_list(planes: Callable[..., Runtime]) -> None:
    runtime = planes()
    note(runtime)
    assert not AlertLoop(runtime).run_once()
    (row,) = runtime.database.read(lambda c: c.execute(select(TABLE)).all())
    assert (row.told, row.tries) == (0, 0)


# --- a session that is over ----------------------------------------------------------------------------------------


def test_login_required_pauses_the_lane_with_an_alert_until_a_new_session(
    planes: Callable[..., Runtime], receiver: Receiver
) -> None:
    runtime = planes(alert_urls=(receiver.url,))
    owned = owned_step(runtime)
    login_required(runtime, owned)
    drain(AlertLoop(runtime))
    message = receiver.wait("has to sign in (acme)")
    assert SECRET not in message["message"]
    assert owned.job_id in message["message"]
    held = runtime.broker.queues_admin.describe("quick", "acme")
    assert held is not None
    assert held.paused
    runtime.sessions.put("acme", storage_state={"cookies": []}, credentials=None)
    runtime.settings_sync.sync_account("acme")
    free = runtime.broker.queues_admin.describe("quick", "acme")
    assert free is None or not free.paused


@ON_SQLITE
def test_login_required_does_not_take_an_operators_pause_away(planes: Callable[..., Runtime]) -> None:
    runtime = planes()
    owned = owned_step(runtime)
    runtime.database.write(lambda c: queues.set_paused(c, "quick", "acme", True, reason="operator"))
    login_required(runtime, owned)
    runtime.sessions.put("acme", storage_state={"cookies": []}, credentials=None)
    (row,) = runtime.database.read(lambda c: c.execute(select(TenantQueue.__table__)).all())
    assert (row.paused, row.reason) == (True, "operator")


def owned_step(runtime: Runtime) -> OwnedAttempt:
    database = runtime.database
    plan = JobPlan(pipeline="quick", input={}, steps=(StepPlan("quick", "quick", True, 1),))
    made = database.write(lambda c: create_jobs.create(c, "acme", [plan]))
    runtime.dispatcher.send(made.queued)
    database.write(lambda c: workers.register(c, id="w", host="h", pid=1, lanes=["quick"], threads=1))
    owned = job_store(database).start(made.queued[0].id, worker_id="w", slot=0)
    assert isinstance(owned, OwnedAttempt)
    return owned


def login_required(runtime: Runtime, owned: OwnedAttempt) -> None:
    port = step_port(runtime, owned)
    port.call("session.login_required", {"reason": f"the cookie {SECRET} is dead"})


# --- circuits of a running service ---------------------------------------------------------------------------------


@pytest.fixture
def failing(redis_url: str, migrated_url: str, tmp_path: Path, receiver: Receiver) -> Iterator[Callable[..., Service]]:
    """A service with a worker whose circuits open after three failures, with alerts."""
    (tmp_path / "notes").mkdir()
    with contextlib.ExitStack() as stack:

        def make(cooldown: float) -> Service:
            plain = make_service(migrated_url, redis_url, tmp_path)
            plain.runtime.close()
            settings = {"alert_urls": (receiver.url,), "circuit_failures": 3, "circuit_cooldown": cooldown}
            service = stack.enter_context(contextlib.closing(Service(plain.settings.model_copy(update=settings))))
            service.loops.start()
            service.work(ONELANE_CIRCUIT_FAILURES="3", ONELANE_CIRCUIT_COOLDOWN=str(cooldown))
            for _ in range(3):
                service.run("quick", do="reject")
            return service

        yield make


def why(service: Service, job_id: str) -> dict[str, Any]:
    return {each.code: each for each in service.runtime.explainer.why(job_id)}


@ON_POSTGRESQL
@pytest.mark.slow
@pytest.mark.processes
def test_an_open_circuit_outlives_redis_and_is_closed_by_hand(
    failing: Callable[..., Service], receiver: Receiver
) -> None:
    service = failing(3600)
    runtime = service.runtime
    sent = receiver.wait("lane is stopped")
    assert "onelane queues resume quick acme" in sent["message"]
    waiting = service.make("quick")
    assert service.run("quick", "other")["status"] == "completed", "no other account is concerned"
    assert why(service, waiting)["circuit_open"].until is not None
    assert "queue_paused" not in why(service, waiting)
    service.until(lambda: paused_in_redis(runtime), "Redis to have the pause")

    with contextlib.closing(redis.Redis.from_url(str(service.settings.redis_url))) as client:
        client.flushall()
    Reconciler(runtime).run_once()
    assert service.run("quick", "other")["status"] == "completed"
    assert paused_in_redis(runtime)
    assert (service.job(waiting)["status"], service.began(waiting)) == ("queued", False)

    runtime.database.write(lambda c: circuits.close(c, "acme", "quick"))
    runtime.settings_sync.sync_account("acme")
    assert service.wait(waiting)["status"] == "completed"


@ON_SQLITE
@pytest.mark.slow
@pytest.mark.processes
def test_a_canary_tries_and_closes_the_circuit(failing: Callable[..., Service], receiver: Receiver) -> None:
    service = failing(1)
    jobs = [service.make("quick") for _ in range(4)]
    assert [service.wait(job)["status"] for job in jobs] == ["completed"] * 4
    receiver.wait("lane is stopped")
    receiver.wait("runs again")
    assert service.runtime.database.read(circuits.open_by_lane) == {}
    assert not paused_in_redis(service.runtime)


def test_circuits_that_are_turned_off_are_closed(planes: Callable[..., Runtime]) -> None:
    runtime = planes()
    owned = owned_step(runtime)
    runtime.database.write(lambda c: circuits.failed(c, owned, circuits.CircuitPolicy(1, 3600.0), "internal"))
    runtime.settings_sync.sync_account("acme")
    assert paused_in_redis(runtime)
    SettingsSyncLoop(planes(circuit_failures=0)).run_once()
    assert not paused_in_redis(runtime)
    assert runtime.database.read(circuits.open_by_lane) == {}


def paused_in_redis(runtime: Runtime) -> bool:
    found = runtime.broker.queues_admin.describe("quick", "acme")
    return found is not None and found.paused
