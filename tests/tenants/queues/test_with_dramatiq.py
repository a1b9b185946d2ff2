"""A drop-in broker: what Dramatiq's users rely on, under Dramatiq's own worker.

One module, however long: it is read beside Dramatiq's list of what a broker and its middleware do.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, QueueJoinTimeout, Worker
from dramatiq.middleware import AgeLimit, AsyncIO, CurrentMessage
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tenants.queues import Entry, QueueLimits, TenantBroker, current_message, entry_id_of
from tenants.queues.entry import plain_message
from tests.tenants.queues.conftest import PATIENCE_MS, eventually
from tests.tenants.queues.lanes import LANE, Client

StartWorker = Callable[..., Worker]


def test_the_same_message_enqueued_three_times_runs_three_times(
    broker: TenantBroker, start_worker: StartWorker
) -> None:
    runs: list[int] = []

    @dramatiq.actor
    def act() -> None:
        runs.append(1)

    message = act.message()
    for _ in range(3):
        broker.enqueue(message)
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert len(runs) == 3


def test_what_middleware_does_to_a_message_is_for_one_run(broker: TenantBroker, start_worker: StartWorker) -> None:
    """As with Dramatiq's own brokers, where each enqueue makes a copy."""
    runs: list[tuple[int, str | None]] = []

    class Tracer(dramatiq.Middleware):
        number = 0

        def before_enqueue(self, broker: dramatiq.Broker, message: Message[Any], delay: int | None) -> None:
            assert "trace" not in message.options
            self.number += 1
            message.options.update(trace=self.number, account=f"a{self.number}")

    broker.add_middleware(Tracer())

    @dramatiq.actor
    def act() -> None:
        current = current_message()
        assert current is not None
        runs.append((current.options["trace"], current.account))

    message = act.message()
    for _ in range(3):
        broker.enqueue(message)
    assert message.options == {}
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert sorted(runs, key=lambda run: run[0]) == [(1, "a1"), (2, "a2"), (3, "a3")]


def test_what_send_gives_back_names_the_entry(broker: TenantBroker, start_worker: StartWorker) -> None:
    received: list[Message[Any]] = []

    @dramatiq.actor
    def act() -> None:
        current = current_message()
        assert current is not None
        received.append(plain_message(current))

    first = act.send_with_options(account="acme")
    second = act.send_with_options(account="acme")
    admin = broker.queues_admin
    assert admin.explain("default", "acme", str(entry_id_of(first))) == []
    (reason,) = admin.explain("default", "acme", str(entry_id_of(second)))
    assert (reason.code, reason.count) == ("behind_other_messages", 1)
    again = broker.enqueue(first)
    assert admin.position("default", "acme", str(entry_id_of(again))) == 2
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert received == [first, second, again]
    assert entry_id_of(act.message()) is None


def test_a_strict_queue_waits_for_its_retries(broker: TenantBroker, start_worker: StartWorker) -> None:
    order: list[int] = []

    @dramatiq.actor(min_backoff=30, max_backoff=30, max_retries=2)
    def act(number: int) -> None:
        order.append(number)
        if number != 2 and order.count(number) < 4:
            raise RuntimeError("again")

    broker.queues_admin.set_limits("default", "acme", QueueLimits(ordering="strict"))
    for number in (1, 2):
        act.send_with_options(args=(number,), account="acme")
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert order == [1, 1, 1, 2]  # the second goes on once the first is buried
    assert [each.account for each in broker.queues_admin.buried("default")] == ["acme"]


def test_a_message_too_old_is_buried_unrun(broker: TenantBroker, start_worker: StartWorker) -> None:
    runs: list[int] = []

    @dramatiq.actor(max_age=60_000)
    def act() -> None:
        runs.append(1)

    broker.enqueue(Message("default", "act", (), {}, {"account": "acme"}, message_timestamp=1))
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert runs == []
    assert len(broker.queues_admin.buried("default")) == 1


def test_retries_keep_entry_and_account(broker: TenantBroker, start_worker: StartWorker) -> None:
    seen: list[tuple[str, str | None, int]] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1, max_retries=3)
    def act() -> None:
        current = current_message()
        assert current is not None
        seen.append((current.entry_id, current.account, current.options.get("retries", 0)))
        if len(seen) < 3:
            raise RuntimeError("again")

    act.send_with_options(account="acme")
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert [each[1:] for each in seen] == [("acme", 0), ("acme", 1), ("acme", 2)]
    assert len({each[0] for each in seen}) == 1


def test_exhausted_retries_and_unknown_actors_are_buried(broker: TenantBroker, start_worker: StartWorker) -> None:
    @dramatiq.actor(max_retries=0)
    def act() -> None:
        raise RuntimeError("for good")

    act.send()
    broker.enqueue(Message("default", "nobody", (), {}, {"account": "acme"}))
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    reasons = {each.account: each.reason for each in broker.queues_admin.buried("default")}
    assert reasons == {None: "RuntimeError: for good", "acme": "unknown actor: nobody"}


def test_undecodable_messages_are_buried_and_hold_up_nobody(
    broker: TenantBroker, start_worker: StartWorker, client: Client
) -> None:
    runs: list[int] = []

    @dramatiq.actor
    def act() -> None:
        runs.append(1)

    act.send_with_options(account="acme")
    key = broker.keys.root("default") + ":entries:@acme"
    (entry_id,) = client.hkeys(key)
    client.hset(key, entry_id, client.hget(key, entry_id)[:-5])
    act.send_with_options(account="acme")
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert runs == [1]
    assert [each.reason for each in broker.queues_admin.buried("default")] == ["undecodable"]


def test_what_is_enqueued_in_an_actor_inherits_its_account(broker: TenantBroker, start_worker: StartWorker) -> None:
    seen: dict[str, str | None] = {}

    def see(name: str) -> None:
        current = current_message()
        assert current is not None
        seen[name] = current.account

    @dramatiq.actor
    def child(name: str) -> None:
        see(name)

    @dramatiq.actor
    def callback(_data: object, _result: object) -> None:
        see("callback")

    @dramatiq.actor
    def parent() -> str:
        child.send("inherits")
        child.send_with_options(args=("other",), account="other")
        child.send_with_options(args=("none",), account=None)
        return "piped"

    message = parent.message_with_options(account="acme", on_success=callback.actor_name)
    broker.enqueue((message | child.message_with_options()).messages[0])
    start_worker(broker)
    eventually(lambda: len(seen) == 5)
    assert seen == {"inherits": "acme", "other": "other", "none": None, "callback": "acme", "piped": "acme"}


def test_results_groups_and_pipelines(
    make_broker: Callable[..., TenantBroker], start_worker: StartWorker, redis_url: str
) -> None:
    broker = make_broker()
    backend = RedisBackend(url=redis_url)
    results: Any = Results
    broker.add_middleware(results(backend=backend, store_results=True))

    @dramatiq.actor(broker=broker)
    def add(x: int, y: int) -> int:
        return x + y

    start_worker(broker)
    dramatiq.set_broker(broker)
    pipeline: Any = add.message_with_options(args=(1, 2), account="acme") | add.message_with_options(args=(3,))
    assert pipeline.run().get_result(block=True, timeout=PATIENCE_MS) == 6
    group: Any = dramatiq.group
    sums = group([add.message_with_options(args=(n, n), account=f"a{n}") for n in range(5)]).run()
    assert list(sums.get_results(block=True, timeout=PATIENCE_MS)) == [0, 2, 4, 6, 8]
    backend.client.close()


def test_async_actors_know_their_message(make_broker: Callable[..., TenantBroker], start_worker: StartWorker) -> None:
    broker = make_broker()
    broker.add_middleware(AsyncIO())
    broker.add_middleware(CurrentMessage())
    seen: list[str | None] = []
    same: list[bool] = []

    async def child() -> None:
        await act()

    async def act() -> None:
        await asyncio.sleep(0)
        current = current_message()
        seen.append(current.account if current else None)
        known: object = CurrentMessage.get_current_message()
        same.append(known is current)

    async def parent() -> None:
        await act()
        sent.send()

    sent = dramatiq.actor(broker=broker)(child)
    dramatiq.actor(broker=broker)(parent).send_with_options(account="acme")
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert seen == ["acme", "acme"]
    assert same == [True, True]


def test_delays_and_etas_wait_in_the_server(broker: TenantBroker, start_worker: StartWorker) -> None:
    started: dict[str, float] = {}

    @dramatiq.actor
    def act(name: str) -> None:
        current = current_message()
        assert current is not None
        assert "eta" not in current.options
        started[name] = time.monotonic()

    worker = start_worker(broker, timeout_ms=1000)
    sent = time.monotonic()
    act.send_with_options(args=("tomorrow",), delay=86_400_000)
    act.send_with_options(args=("second",), delay=400)
    act.send_with_options(args=("first",), delay=200)
    act.send_with_options(args=("now",), eta=0)
    # Not in which order: where the worker stands still for a while, all that is due meanwhile starts at one time.
    eventually(lambda: set(started) == {"now", "first", "second"})
    assert started["first"] - sent >= 0.2
    assert started["second"] - sent >= 0.4
    eventually(lambda: broker.queues_admin.totals("default").active == 0)
    assert broker.queues_admin.totals("default").delayed == 1
    assert broker.get_declared_delay_queues() == set()
    late = act.message_with_options(args=("late",), eta=int(time.time() * 1000) + 86_400_000)
    assert broker.enqueue_once(Entry(late, "late"))
    assert broker.queues_admin.totals("default").delayed == 2
    assert all(consumer.delay_queue.empty() for consumer in worker.consumers.values())


def test_actor_priorities_order_the_queue(broker: TenantBroker, start_worker: StartWorker) -> None:
    order: list[str] = []

    @dramatiq.actor(priority=10)
    def low() -> None:
        order.append("low")

    @dramatiq.actor(priority=0)
    def high() -> None:
        order.append("high")

    for _ in range(3):
        low.send_with_options(account="acme")
        high.send_with_options(account="acme")
    start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert order == ["high"] * 3 + ["low"] * 3


def test_a_paused_worker_starts_nothing(broker: TenantBroker, start_worker: StartWorker) -> None:
    runs: list[int] = []

    @dramatiq.actor
    def act() -> None:
        runs.append(1)

    worker = start_worker(broker)
    worker.pause()
    act.send_with_options(account="acme")
    with pytest.raises(QueueJoinTimeout):
        broker.join("default", timeout=300)
    assert runs == []
    worker.resume()
    broker.join("default", timeout=PATIENCE_MS)
    assert runs == [1]


def test_flush_drops_all_and_settings_stay(broker: TenantBroker, client: Client) -> None:
    @dramatiq.actor
    def act() -> None: ...

    for number in range(250):
        act.send_with_options(account=f"a{number}", delay=60_000 if number % 2 else None)
    broker.queues_admin.set_limits("default", "a1", QueueLimits(weight=7))

    @dramatiq.actor(queue_name="other")
    def other() -> None: ...

    other.send()
    assert broker.get_declared_queues() == {"default", "other"}
    broker.flush("default")
    broker.join("default", timeout=PATIENCE_MS)
    assert broker.queues_admin.list_queues("default") == ([], None)
    kept = broker.queues_admin.describe("default", "a1")
    assert kept is not None
    assert kept.limits.weight == 7
    assert broker.queues_admin.totals("other").waiting == 1
    broker.flush_all()
    broker.join("other", timeout=PATIENCE_MS)


def test_no_more_is_claimed_than_threads_are_free(broker: TenantBroker, start_worker: StartWorker) -> None:
    go = threading.Event()

    @dramatiq.actor(queue_name=LANE)
    def publish() -> None:
        go.wait(PATIENCE_MS / 1000)

    @dramatiq.actor(queue_name="generate")
    def generate() -> None:
        go.wait(PATIENCE_MS / 1000)

    for number in range(20):
        publish.send_with_options(account=f"a{number}")
        generate.send_with_options(account=f"a{number}")
    start_worker(broker, threads=4)
    # A lane that asks holds permits for a moment before it has messages, so the server is asked.
    eventually(lambda: sum(broker.queues_admin.totals(lane).active for lane in (LANE, "generate")) == 4)
    assert broker.worker.budget.used == 4
    go.set()
    broker.join(LANE, timeout=PATIENCE_MS)
    broker.join("generate", timeout=PATIENCE_MS)
    eventually(lambda: broker.worker.budget.used == 0)


def test_one_lanes_backlog_starves_no_other_lane(broker: TenantBroker, start_worker: StartWorker) -> None:
    order: list[str] = []
    all_sent = threading.Event()

    @dramatiq.actor(queue_name=LANE)
    def publish() -> None:
        order.append("publish")
        if len(order) > 5:
            all_sent.wait(PATIENCE_MS / 1000)  # however slow the sender is, the backlog does not run out meanwhile
        time.sleep(0.005)

    @dramatiq.actor(queue_name="generate")
    def generate() -> None:
        order.append("generate")
        time.sleep(0.005)

    for number in range(200):
        publish.send_with_options(account=f"a{number}")
    start_worker(broker, threads=2)
    eventually(lambda: len(order) > 5)
    for number in range(10):
        generate.send_with_options(account=f"a{number}")
    all_sent.set()
    eventually(lambda: order.count("generate") == 10)
    last = max(place for place, lane in enumerate(order) if lane == "generate")
    assert order[:last].count("publish") < 150
    broker.join(LANE, timeout=PATIENCE_MS)


def test_a_lane_minimum_keeps_threads_free(make_broker: Callable[..., TenantBroker], start_worker: StartWorker) -> None:
    broker = make_broker(lane_minimum={"generate": 1})
    go = threading.Event()
    done: list[int] = []

    @dramatiq.actor(queue_name=LANE, broker=broker)
    def publish() -> None:
        go.wait(PATIENCE_MS / 1000)

    @dramatiq.actor(queue_name="generate", broker=broker)
    def generate() -> None:
        done.append(1)

    for number in range(5):
        publish.send_with_options(account=f"a{number}")
    start_worker(broker, threads=2)
    eventually(lambda: broker.worker.budget.used == 1)
    generate.send_with_options(account="acme")
    eventually(lambda: done == [1])
    go.set()
    broker.join(LANE, timeout=PATIENCE_MS)


def test_stopping_gives_back_what_has_not_started(broker: TenantBroker) -> None:
    go = threading.Event()
    started: list[int] = []

    @dramatiq.actor
    def act() -> None:
        started.append(1)
        go.wait(PATIENCE_MS / 1000)

    for number in range(6):
        act.send_with_options(account=f"a{number}")
    worker = Worker(broker, worker_threads=2, worker_timeout=100)
    worker.start()
    eventually(lambda: len(started) == 2)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    eventually(lambda: broker.worker.stopping)
    eventually(lambda: broker.queues_admin.totals("default").active <= 2)
    go.set()
    stopper.join(PATIENCE_MS / 1000)
    totals = broker.queues_admin.totals("default")
    assert (totals.active, totals.waiting) == (0, 4)


def test_an_idle_worker_asks_once_a_second(broker: TenantBroker, start_worker: StartWorker, client: Client) -> None:
    @dramatiq.actor
    def act() -> None: ...

    start_worker(broker, timeout_ms=100)
    eventually(lambda: int(client.info("clients")["blocked_clients"]) == 1)
    before, began = int(client.info("commandstats")["cmdstat_evalsha"]["calls"]), time.monotonic()
    time.sleep(2.0)
    asked = int(client.info("commandstats")["cmdstat_evalsha"]["calls"]) - before
    assert asked <= time.monotonic() - began + 1


def test_the_list_of_middleware_is_the_users_own(make_broker: Callable[..., TenantBroker]) -> None:
    class Mine(dramatiq.Middleware):
        pass

    assert make_broker(middleware=[]).middleware == []
    broker = make_broker()
    mine, after = Mine(), Mine()
    broker.add_middleware(mine, before=AgeLimit)
    assert broker.middleware[0] is mine
    broker.add_middleware(after, after=AgeLimit)
    assert broker.middleware[2] is after
