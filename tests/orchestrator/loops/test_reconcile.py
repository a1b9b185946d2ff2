"""SQL against Redis: what is missing comes back, what is unknown goes, what the dead hold is free; order is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, update

from orchestrator.control.dispatch import entry_of
from orchestrator.loops.reconciler import Reconciler
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Account, Worker
from tenants.queues import QueueLimits
from tenants.queues.keys import LAYOUT
from tenants.store import meta, workers
from tenants.store.accounts import queues
from tenants.store.accounts.accounts import ensure_account
from tenants.store.dispatch import Dispatch
from tenants.store.jobs.create import JobPlan
from tenants.store.jobs.lists import JobFilter
from tenants.store.steps import start as start_steps
from tests.orchestrator.conftest import make_service
from tests.tenants.queues.lanes import Hand
from tests.tenants.queues.layouts import restore

LANE = "quick"
#: Redis' answers are typed as bytes or text, whichever a client was made for.
Client = Any


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    """Without loops and workers: nothing happens but what the test does."""
    made = make_service(migrated_url, redis_url, tmp_path).runtime
    yield made
    made.close()


@pytest.fixture
def client(runtime: Runtime) -> Iterator[Client]:
    with contextlib.closing(redis.Redis.from_url(str(runtime.settings.redis_url))) as client:
        yield client


def make(runtime: Runtime, account: str = "acme", **job: Any) -> str:
    made, _ = runtime.jobs.create(account, JobPlan("quick", {"do": "return"}, **job))
    return str(made["steps"][0]["id"])


def held(runtime: Runtime, account: str = "acme") -> list[str]:
    pages = runtime.broker.queues_admin.entries(LANE)
    return [each for page in pages if page.account == account for each in page.ids]


def message(runtime: Runtime, step_id: str, account: str = "acme", lane: str = LANE) -> None:
    """A message in Redis that SQL knows nothing of."""
    step = Dispatch(step_id, account, "quick", "quick", lane, 5, 1, None)
    runtime.broker.enqueue_once(entry_of(step, datetime.now(UTC)))


def start(runtime: Runtime, step_id: str, worker_id: str) -> None:
    runtime.database.write(lambda c: start_steps.start(c, step_id, worker_id=worker_id, slot=0))


def counts(runtime: Runtime) -> tuple[int, int, int]:
    report = Reconciler(runtime).reconcile()
    return report.requeued, report.released, report.orphaned


def test_what_is_missing_comes_back_in_its_old_order(runtime: Runtime, client: Client) -> None:
    urgent_last = [(number, 9 - number % 3) for number in range(40)]
    made = [(priority, number, make(runtime, priority=priority)) for number, priority in urgent_last]
    wanted = [step_id for _, _, step_id in sorted(made)]
    assert held(runtime) == wanted
    assert counts(runtime) == (0, 0, 0)
    client.flushall()
    later = make(runtime, priority=9)
    assert counts(runtime) == (40, 0, 0)
    assert held(runtime) == [*wanted, later]
    assert counts(runtime) == (0, 0, 0)


def test_what_sql_does_not_know_is_removed(runtime: Runtime) -> None:
    known, ended = make(runtime), make(runtime)
    job_id = next(job["id"] for job in runtime.jobs.list(JobFilter())[0])
    runtime.jobs.cancel(job_id)  # the newest: its message is withdrawn, and brought back below
    for step_id, account in (("never was", "acme"), (ended, "acme"), (known, "another account's queue")):
        message(runtime, step_id, account)
    message(runtime, "on a lane that is gone", lane="gone")
    assert counts(runtime) == (0, 0, 4)
    assert held(runtime) == [known]
    assert held(runtime, "another account's queue") == []
    assert counts(runtime) == (0, 0, 0)


def test_what_dead_workers_hold_is_free_at_once(runtime: Runtime, client: Client) -> None:
    """A lease whose worker is gone, a running row whose worker is gone, and both of a worker that lives."""

    def work(connection: Connection) -> None:
        for name in ("dead", "alive"):
            workers.register(connection, id=name, host="here", pid=1, lanes=[LANE], threads=1)
        table = Worker.__table__
        connection.execute(update(table).where(table.c.id == "dead").values(heartbeat_at=db_now(-60)))

    step_ids = {account: make(runtime, account) for account in ("claimed", "running", "kept")}
    runtime.database.write(work)
    held_by = {"claimed": "dead", "running": "dead", "kept": "alive"}
    leases = {}
    for name in ("dead", "alive"):
        hand = Hand(runtime.broker, worker=f"{name}.0123", lane=LANE)
        leases.update({lease.account: (lease, name) for lease in hand.claim(1 if name == "alive" else 2)})
    # Claims come in the order of arrival: two for the dead worker, then one for the other.
    assert {account: name for account, (_, name) in leases.items()} == held_by
    for account in ("running", "kept"):
        start(runtime, step_ids[account], held_by[account])
    assert counts(runtime) == (0, 2, 0)
    assert held(runtime, "claimed") == [step_ids["claimed"]]
    assert held(runtime, "running") == [step_ids["running"]]
    assert held(runtime, "kept") == []
    assert runtime.broker.queues_admin.check(LANE) == []
    assert counts(runtime) == (0, 0, 0)


def test_settings_of_an_old_snapshot_do_not_outlive_it(runtime: Runtime) -> None:
    admin = runtime.broker.queues_admin
    admin.set_limits(LANE, "forgotten", QueueLimits(concurrency=9))
    admin.pause_account("forgotten")
    admin.pause(LANE)

    def work(connection: Connection) -> None:
        ensure_account(connection, "paused")
        connection.execute(update(Account.__table__).values(status="paused"))
        queues.set_paused(connection, LANE, "one queue", True)

    runtime.database.write(work)
    counts(runtime)
    for account in ("forgotten", "paused", "one queue"):
        make_message = Dispatch(f"of {account}", account, "quick", "quick", LANE, 5, 1, None)
        runtime.dispatcher.send([make_message])
    described = {account: admin.describe(LANE, account) for account in ("forgotten", "paused", "one queue")}
    shown = {account: (each.paused, each.limits) for account, each in described.items() if each is not None}
    assert shown == {
        "forgotten": (False, QueueLimits()),
        "paused": (True, QueueLimits()),
        "one queue": (True, QueueLimits()),
    }
    assert not admin.totals(LANE).paused


@pytest.mark.parametrize("loss", ["emptied", "another generation", "another server"])
def test_a_loss_is_noticed_by_itself(runtime: Runtime, client: Client, loss: str) -> None:
    reconciler = Reconciler(runtime)
    reconciler.run_once()
    step_id = make(runtime)
    runtime.broker.queues_admin.purge(LANE, "acme")
    reconciler.run_once()
    assert held(runtime) == [], "nothing reports the loss yet"
    match loss:
        case "emptied":
            client.flushall()
        case "another generation":
            runtime.broker.queues_admin.set_generation(1_000_000)
        case "another server":
            runtime.database.write(lambda c: meta.put(c, f"redis_run_id_{LAYOUT}", "of the server before"))
    reconciler.run_once()
    assert held(runtime) == [step_id]
    runtime.broker.queues_admin.purge(LANE, "acme")
    reconciler.run_once()
    assert held(runtime) == [], "both sides are one again"


def test_a_redis_emptied_during_its_rebuild_is_rebuilt_again(runtime: Runtime, client: Client) -> None:
    class Unlucky(Reconciler):
        def reconcile(self) -> Any:
            report = super().reconcile()
            client.flushall()
            return report

    step_id = make(runtime)
    Unlucky(runtime).run_once()
    assert held(runtime) == []
    Reconciler(runtime).run_once()
    assert held(runtime) == [step_id]


def test_keys_of_an_earlier_layout_are_not_read_and_removed_once_unused(runtime: Runtime, client: Client) -> None:
    """SQL holds what is in them; an earlier release may still use them beside this one."""
    restore(client)
    step_id = make(runtime)
    reconciler = Reconciler(runtime)
    reconciler.layouts_seconds = 0.0
    reconciler.run_once()
    assert runtime.broker.layouts.others() == [1]
    assert client.exists("onelane:{publish}:entries:@plain"), "somebody has used them just now"
    reconciler.unused_seconds = 0.0
    reconciler.run_once()
    assert runtime.broker.layouts.others() == []
    assert list(client.scan_iter("onelane:{*")) == []
    assert held(runtime) == [step_id]


def test_a_first_start_does_not_warn_of_a_lost_redis(
    runtime: Runtime, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs that came before the first look were not lost by anything; those of a server that was emptied were."""
    make(runtime)
    client.flushall()
    with caplog.at_level("INFO"):
        Reconciler(runtime).run_once()
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == []
    assert held(runtime), "it was sent all the same"
    client.flushall()
    caplog.clear()
    Reconciler(runtime).run_once()
    assert "1 of 1 waiting step(s) were missing" in caplog.text
