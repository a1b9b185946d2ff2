"""Lanes cut into shards: what holds for a lane holds for its shards together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import dramatiq
import pytest
from dramatiq import Worker

from tenants.queues import InvalidEntry, TenantBroker, current_message
from tenants.queues.budget import ThreadBudget
from tenants.queues.keys import shard_of, token
from tests.tenants.queues.conftest import PATIENCE_MS, MakeBroker, eventually
from tests.tenants.queues.lanes import LANE, Client, entry

StartWorker = Callable[..., Worker]
SHARDS = 3
ACCOUNTS = [f"account {number}" for number in range(24)]


@pytest.fixture
def sharded(make_broker: MakeBroker) -> TenantBroker:
    broker = make_broker(shards=SHARDS)
    dramatiq.set_broker(broker)
    return broker


def test_each_shard_has_a_hash_tag_of_its_own(sharded: TenantBroker, client: Client) -> None:
    sharded.enqueue_many(entry("1", account) for account in ACCOUNTS)
    tags = {key.split(b"{")[1].split(b"}")[0] for key in client.scan_iter() if b"{" in key}
    assert tags == {b"publish/0", b"publish/1", b"publish/2"}
    assert {shard_of(token(account), SHARDS) for account in ACCOUNTS} == {0, 1, 2}


def test_messages_run_in_order_and_one_at_a_time(sharded: TenantBroker, start_worker: StartWorker) -> None:
    done: dict[str | None, list[int]] = {}
    running: set[str | None] = set()
    overlaps: list[str | None] = []
    mutex = threading.Lock()

    @dramatiq.actor(queue_name=LANE)
    def act(number: int) -> None:
        current = current_message()
        assert current is not None
        with mutex:
            if current.account in running:
                overlaps.append(current.account)
            running.add(current.account)
        time.sleep(0.001)
        with mutex:
            running.discard(current.account)
            done.setdefault(current.account, []).append(number)

    for number in range(5):
        for account in ACCOUNTS:
            act.send_with_options(args=(number,), account=account)
    start_worker(sharded, threads=4)
    eventually(lambda: sum(map(len, done.values())) == 5 * len(ACCOUNTS), 30)
    assert overlaps == []
    assert done == {account: [0, 1, 2, 3, 4] for account in ACCOUNTS}
    sharded.join(LANE, timeout=PATIENCE_MS)
    eventually(lambda: sharded.worker.budget.used == 0)


def test_no_shards_backlog_starves_another(sharded: TenantBroker, start_worker: StartWorker) -> None:
    order: list[str | None] = []
    all_sent = threading.Event()

    @dramatiq.actor(queue_name=LANE)
    def act() -> None:
        current = current_message()
        assert current is not None
        order.append(current.account)
        if len(order) > 10:
            all_sent.wait(PATIENCE_MS / 1000)  # however slow the sender is, the backlog does not run out meanwhile
        time.sleep(0.002)

    busy = [account for account in ACCOUNTS if shard_of(token(account), SHARDS) == 0]
    quiet = next(account for account in ACCOUNTS if shard_of(token(account), SHARDS) == 1)
    for _ in range(40):
        for account in busy:
            act.send_with_options(account=account)
    start_worker(sharded, threads=2)
    eventually(lambda: len(order) > 10)
    act.send_with_options(account=quiet)
    all_sent.set()
    eventually(lambda: quiet in order)
    assert order.index(quiet) < 40 * len(busy)
    sharded.join(LANE, timeout=PATIENCE_MS)


def test_the_lanes_limits_are_divided_and_pauses_are_not(sharded: TenantBroker, start_worker: StartWorker) -> None:
    admin = sharded.queues_admin
    go = threading.Event()

    @dramatiq.actor(queue_name=LANE)
    def act() -> None:
        go.wait(PATIENCE_MS / 1000)

    for account in ACCOUNTS:
        act.send_with_options(account=account)
    with pytest.raises(InvalidEntry, match="global_concurrency"):
        admin.set_lane_limits(LANE, SHARDS - 1)
    admin.set_lane_limits(LANE, 4)
    assert admin.totals(LANE).global_concurrency == 4
    admin.pause(LANE)
    start_worker(sharded, threads=8)
    assert admin.totals(LANE).active == 0
    admin.resume(LANE)
    eventually(lambda: admin.totals(LANE).active == 4)
    assert sharded.worker.budget.used <= 8
    admin.set_lane_limits(LANE, None)
    eventually(lambda: admin.totals(LANE).active == 8)
    go.set()
    sharded.join(LANE, timeout=PATIENCE_MS)


def test_stopping_gives_everything_back_at_once(sharded: TenantBroker) -> None:
    go = threading.Event()
    started: list[int] = []

    @dramatiq.actor(queue_name=LANE)
    def act() -> None:
        started.append(1)
        go.wait(PATIENCE_MS / 1000)

    for account in ACCOUNTS:
        act.send_with_options(account=account)
    worker = Worker(sharded, worker_threads=2, worker_timeout=100)
    worker.start()
    eventually(lambda: len(started) == 2)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    eventually(lambda: sharded.worker.stopping)
    eventually(lambda: sharded.queues_admin.totals(LANE).active <= 2)
    go.set()
    stopper.join(PATIENCE_MS / 1000)
    totals = sharded.queues_admin.totals(LANE)
    assert (totals.active, totals.waiting) == (0, len(ACCOUNTS) - 2)
    assert not [each for each in threading.enumerate() if each.name.startswith(f"onelane-{LANE}/")]


def test_lists_totals_and_removals_span_the_shards(sharded: TenantBroker) -> None:
    admin = sharded.queues_admin
    sharded.enqueue_many(entry(str(number), account) for account in ACCOUNTS for number in range(2))
    listed: list[str | None] = []
    cursor: str | None = None
    while True:
        page, cursor = admin.list_queues(LANE, cursor=cursor, limit=5)
        listed += [each.account for each in page]
        if cursor is None:
            break
    assert sorted(map(str, listed)) == sorted(ACCOUNTS)
    assert admin.totals(LANE).waiting == 2 * len(ACCOUNTS)
    assert all(admin.purge(LANE, account) == ["0", "1"] for account in ACCOUNTS)
    assert sorted(admin.reap(0)) == sorted((LANE, account) for account in ACCOUNTS)
    assert admin.totals(LANE).queues == 0


def test_shards_of_a_lane_share_its_minimum() -> None:
    budget = ThreadBudget({"generate": 2})
    budget.open(4)
    assert budget.acquire("publish/0", 10) == 2
    assert budget.acquire("generate/0", 1) == 2
    assert budget.acquire("publish/1", 10) == 0


@pytest.mark.parametrize("shards", [0, 65, -1])
def test_a_number_of_shards_that_cannot_be_is_refused(shards: int) -> None:
    with pytest.raises(InvalidEntry, match="shards"):
        TenantBroker(shards=shards)
