"""Settles that share round trips: what is handed in is sent by somebody, whatever strikes the thread that leads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenants.queues import LeasedMessage, LeaseLost, TenantBroker
from tenants.queues.bell import Heard
from tenants.queues.settling import Batch, Settler
from tests.queues.conftest import PATIENCE_MS, eventually
from tests.queues.lanes import LANE, Client, entry


def claimed(broker: TenantBroker, *accounts: str) -> list[LeasedMessage]:
    """A message of each account, claimed through one consumer."""
    broker.enqueue_many(entry(f"of {account}", account) for account in accounts)
    consumer = broker.consume(LANE, prefetch=len(accounts), timeout=PATIENCE_MS)
    found: list[LeasedMessage] = []
    while len(found) < len(accounts):
        message = next(consumer)
        assert isinstance(message, LeasedMessage)
        found.append(message)
    return found


@pytest.mark.parametrize("where", ["_next_batch", "_send"])
def test_an_interrupt_of_the_leader_leaves_nobody_behind(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first, second = claimed(broker, "a", "b")
    struck = getattr(Settler, where)

    def strike(*arguments: object) -> None:
        monkeypatch.setattr(Settler, where, struck)
        raise LeaseLost("as if its own message had been lost")

    monkeypatch.setattr(Settler, where, strike)
    with pytest.raises(LeaseLost):
        first.consumer.ack(first)
    second.consumer.ack(second)

    # The next that settles takes along what the interrupted one has left.
    for account in ("a", "b"):
        eventually(lambda account=account: not broker.queues_admin.contains(LANE, account, [f"of {account}"]))  # type: ignore[misc]


def test_many_threads_settle_in_few_round_trips_and_none_is_forgotten(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = [f"account {number}" for number in range(40)]
    messages = claimed(broker, *accounts)
    sizes: list[int] = []
    send, gate = Settler._send, threading.Event()

    def note(self: Settler, batch: Batch) -> None:
        sizes.append(len(batch.settlements))
        gate.wait(PATIENCE_MS / 1000)  # the others hand theirs in while the first is under way
        send(self, batch)

    monkeypatch.setattr(Settler, "_send", note)
    threads = [threading.Thread(target=message.consumer.ack, args=(message,)) for message in messages]
    threads[0].start()
    eventually(lambda: sizes == [1])
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join(PATIENCE_MS / 1000)  # they do not wait for the server
        assert not thread.is_alive()
    gate.set()
    threads[0].join(PATIENCE_MS / 1000)

    assert sum(sizes) == 40
    assert len(sizes) <= 3
    assert broker.queues_admin.totals(LANE).active == 0


def test_a_second_thread_leads_once_half_of_the_threads_wait_for_the_first(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = claimed(broker, *(f"account {number}" for number in range(7)))
    broker.budget.open(6)  # a worker of six threads
    sizes: list[int] = []
    send, gate = Settler._send, threading.Event()

    def note(self: Settler, batch: Batch) -> None:
        sizes.append(len(batch.settlements))
        gate.wait(PATIENCE_MS / 1000)
        send(self, batch)

    monkeypatch.setattr(Settler, "_send", note)
    threads = [threading.Thread(target=message.consumer.ack, args=(message,)) for message in messages]
    seen: list[list[int]] = []
    leaders = {0: 1, 3: 2}
    for number, thread in enumerate(threads):
        thread.start()
        if number in leaders:
            eventually(lambda under_way=leaders[number]: len(sizes) == under_way)  # type: ignore[misc]
        else:
            thread.join(PATIENCE_MS / 1000)
            assert not thread.is_alive()
        seen.append(list(sizes))
    gate.set()
    for thread in threads:
        thread.join(PATIENCE_MS / 1000)

    # The first goes at once; of the next three the third goes for all; no third leader beside these two.
    assert seen == [[1], [1], [1], [1, 3], [1, 3], [1, 3], [1, 3]]
    assert sum(sizes) == 7
    assert broker.queues_admin.totals(LANE).active == 0


def test_an_answer_that_comes_late_takes_nothing_back_of_what_a_later_one_told(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a message due soon is looked at only when the lane is looked at anyway."""
    first, second = claimed(broker, "a", "b")
    shard = first.shard
    broker.budget.open(2)
    monkeypatch.setattr(broker, "may_chain", lambda _: True)
    for message in (first, second):
        message.thread_id = threading.get_ident()
    ask, asked, gate = Settler._ask, threading.Event(), threading.Event()

    def hold_the_first(self: Settler, batch: Batch, count: int) -> object:
        answer = ask(self, batch, count)
        if batch.settlements[0].message is first:
            asked.set()
            assert gate.wait(PATIENCE_MS / 1000)
        return answer

    monkeypatch.setattr(Settler, "_ask", hold_the_first)
    thread = threading.Thread(target=first.consumer.ack, args=(first,))
    thread.start()
    assert asked.wait(PATIENCE_MS / 1000)
    second.reschedule(5)
    second.consumer.ack(second)
    told = shard.look_at
    assert told is not None
    gate.set()
    thread.join(PATIENCE_MS / 1000)
    assert shard.look_at == told


def test_a_settle_that_chains_wakes_the_consumer_for_what_is_due_soon(
    broker: TenantBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry's time is told to the settle alone, because it takes another account's message along: no bell rings."""
    (message,) = claimed(broker, "a")
    broker.budget.open(2)
    broker.budget._grant(LANE, 1)
    chained: list[LeasedMessage] = []
    monkeypatch.setattr(broker, "may_chain", lambda _: True)
    monkeypatch.setattr(broker, "hand_on", lambda _, messages: chained.extend(messages))
    monkeypatch.setattr("tenants.queues.consumer.IDLE_SECONDS", PATIENCE_MS / 1000)
    message.thread_id = threading.get_ident()
    consumer, shard, woken = message.consumer, message.shard, threading.Event()

    def wake() -> None:
        woken.set()
        consumer._bell.wake()

    monkeypatch.setattr(consumer, "wake", wake)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, consumer)
        eventually(lambda: not shard.more and shard._waits_until > time.monotonic())
        # As if the bell had gone to another process, which had no free thread.
        broker.queues_admin.pause(LANE, "b")
        broker.enqueue_once(entry("of b", "b"))
        client.hdel(broker.keys.limits(LANE), "@b")
        client.zadd(f"{broker.keys.root(LANE)}:ready", {"@b": 1})
        message.reschedule(0.05)
        message.consumer.ack(message)
        assert [each.account for each in chained] == ["b"]
        assert woken.is_set()
        retried = following.result(PATIENCE_MS / 1000)
        assert retried is not None
        assert retried.account == "a"


def calls_of_scripts(client: Client) -> int:
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


@pytest.mark.parametrize("why", ["something is ready", "a time has come"])
def test_a_consumer_without_a_free_thread_waits_for_one_and_asks_nobody(
    broker: TenantBroker, client: Client, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    (message,) = claimed(broker, "a")
    consumer, shard = message.consumer, message.shard
    broker.budget.open(1)
    assert broker.budget.acquire("another lane", 1) == 1
    broker.enqueue_once(entry("of b", "b"))
    shard.note(1 if why == "something is ready" else 0, 0, time.monotonic())
    asked = calls_of_scripts(client)
    waits, wait = threading.Event(), consumer._bell.wait

    def noted(seconds: float, *, listen: bool = True) -> Heard:
        if not listen:
            waits.set()
        return wait(seconds, listen=listen)

    monkeypatch.setattr(consumer._bell, "wait", noted)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, consumer)
        assert waits.wait(PATIENCE_MS / 1000), "it does not wait"
        assert len(broker.budget._tickets) == 1
        assert calls_of_scripts(client) == asked
        broker.budget.release("another lane")
        found = following.result(PATIENCE_MS / 1000)
    assert found is not None
    assert found.account == "b"


def test_a_consumer_that_took_the_bell_and_has_no_free_thread_leaves_it_to_another_process(
    broker: TenantBroker, client: Client
) -> None:
    (message,) = claimed(broker, "a")
    bell = f"{broker.keys.root(LANE)}:bell"
    broker.budget.open(1)
    assert broker.budget.acquire("another lane", 1) == 1
    message.shard.note(0, -1, time.monotonic())
    client.delete(bell)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, message.consumer)
        eventually(lambda: message.consumer._bell._connection is not None)
        broker.enqueue_once(entry("of b", "b"))
        eventually(lambda: client.llen(bell) == 1 and len(broker.budget._tickets) == 1)
        broker.budget.release("another lane")
        found = following.result(PATIENCE_MS / 1000)
    assert found is not None
    assert found.account == "b"


def test_a_message_that_is_settled_is_not_interrupted(broker: TenantBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = claimed(broker, "a")
    struck: list[LeasedMessage] = []
    monkeypatch.setattr("tenants.queues.broker.interrupt", struck.append)
    broker._tell_lost(message)
    assert struck == [message]
    message.consumer.ack(message)
    broker._tell_lost(message)
    assert struck == [message]
