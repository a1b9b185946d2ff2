"""Settles that share round trips: every settlement is sent, whatever interrupts the thread that sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dramatiq.broker import Consumer

from tenants.queues import LeasedMessage, LeaseLost, TenantBroker
from tenants.queues.leases import interrupt
from tenants.queues.lua import Script
from tests.tenants.queues.conftest import PATIENCE_MS, eventually
from tests.tenants.queues.lanes import LANE, Client, entry

PATIENCE = PATIENCE_MS / 1000
Around = Callable[[Callable[[], Any], tuple[Any, ...]], Any]


def claimed(broker: TenantBroker, *accounts: str) -> tuple[Consumer, list[LeasedMessage]]:
    """A message of each account, claimed through one consumer."""
    broker.enqueue_many(entry(f"of {account}", account) for account in accounts)
    consumer = broker.consume(LANE, prefetch=len(accounts), timeout=PATIENCE_MS)
    found: list[LeasedMessage] = []
    while len(found) < len(accounts):
        message = next(consumer)
        assert isinstance(message, LeasedMessage)
        found.append(message)
    return consumer, found


def around_settles(broker: TenantBroker, monkeypatch: pytest.MonkeyPatch, around: Around) -> None:
    """Runs `around(send, arguments)` in place of each settle call, after the script's first six arguments."""
    run = broker.server.run

    def patched(script: Script, root: str, *arguments: Any) -> Any:
        def send() -> Any:
            return run(script, root, *arguments)

        return around(send, arguments[6:]) if script.name == "settle" else send()

    monkeypatch.setattr(broker.server, "run", patched)


def sizes_of_held_settles(broker: TenantBroker, monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> list[int]:
    """The number of settlements in each settle call, in a list that grows; the calls wait for the gate."""
    sizes: list[int] = []

    def hold(send: Callable[[], Any], settlements: tuple[Any, ...]) -> Any:
        sizes.append(settlements[0])
        gate.wait(PATIENCE)
        return send()

    around_settles(broker, monkeypatch, hold)
    return sizes


def is_waiting(client: Client) -> bool:
    """Whether a consumer waits for its bell on the server."""
    return int(client.info("clients")["blocked_clients"]) == 1


@pytest.mark.parametrize("where", ["making the batch", "waiting for the answer"])
def test_an_interrupt_of_the_sender_leaves_no_settlement_unsent(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    consumer, (first, second) = claimed(broker, "a", "b")

    def strike(*_: object) -> Any:
        raise LeaseLost("as if its own message had been lost")

    with monkeypatch.context() as patch:
        if where == "making the batch":
            patch.setattr(broker.worker.leases, "open_request", strike)
        else:
            around_settles(broker, patch, strike)
        with pytest.raises(LeaseLost):
            consumer.ack(first)
    consumer.ack(second)

    # The next thread that settles also sends what the interrupted one has left.
    for account in ("a", "b"):
        eventually(lambda account=account: not broker.queues_admin.contains(LANE, account, [f"of {account}"]))  # type: ignore[misc]


def test_many_threads_settle_in_few_round_trips_and_none_is_lost(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = [f"account {number}" for number in range(40)]
    consumer, messages = claimed(broker, *accounts)
    gate = threading.Event()
    sizes = sizes_of_held_settles(broker, monkeypatch, gate)
    threads = [threading.Thread(target=consumer.ack, args=(message,)) for message in messages]
    threads[0].start()
    eventually(lambda: sizes == [1])
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join(PATIENCE)  # they do not wait for the server
        assert not thread.is_alive()
    gate.set()
    threads[0].join(PATIENCE)

    assert sum(sizes) == 40
    assert len(sizes) <= 3
    assert broker.queues_admin.totals(LANE).active == 0


def test_a_second_thread_sends_once_half_of_the_threads_are_pending(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, messages = claimed(broker, *(f"account {number}" for number in range(7)))
    broker.worker.budget.open(6)  # a worker of six threads
    gate = threading.Event()
    sizes = sizes_of_held_settles(broker, monkeypatch, gate)
    threads = [threading.Thread(target=consumer.ack, args=(message,)) for message in messages]
    seen: list[list[int]] = []
    senders = {0: 1, 3: 2}
    for number, thread in enumerate(threads):
        thread.start()
        if number in senders:
            eventually(lambda under_way=senders[number]: len(sizes) == under_way)  # type: ignore[misc]
        else:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        seen.append(list(sizes))
    gate.set()
    for thread in threads:
        thread.join(PATIENCE)

    # The first sends at once; of the next three the third sends for all; there is no third sender beside these two.
    assert seen == [[1], [1], [1], [1, 3], [1, 3], [1, 3], [1, 3]]
    assert sum(sizes) == 7
    assert broker.queues_admin.totals(LANE).active == 0


def test_a_late_answer_does_not_undo_what_a_later_call_answered(
    broker: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a message that is due soon would wait for the next regular poll."""
    consumer, (first, second) = claimed(broker, "a", "b")
    state = first.lane_state
    broker.worker.budget.open(2)
    monkeypatch.setattr(broker.worker, "may_chain", lambda _: True)
    for message in (first, second):
        message.thread_id = threading.get_ident()
    asked, gate = threading.Event(), threading.Event()

    def hold_the_first(send: Callable[[], Any], settlements: tuple[Any, ...]) -> Any:
        answer = send()
        if first.token in settlements:
            asked.set()
            assert gate.wait(PATIENCE)
        return answer

    around_settles(broker, monkeypatch, hold_the_first)
    thread = threading.Thread(target=consumer.ack, args=(first,))
    thread.start()
    assert asked.wait(PATIENCE)
    second.reschedule(5)
    consumer.ack(second)
    known = state.poll_at
    assert known is not None
    gate.set()
    thread.join(PATIENCE)
    assert state.poll_at == known


def test_a_settle_that_chains_wakes_the_consumer_for_what_is_due_soon(
    broker: TenantBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the settle knows the time of a retry: it also claims another account's message, so no bell is signalled."""
    consumer, (message,) = claimed(broker, "a")
    budget, state, woken = broker.worker.budget, message.lane_state, threading.Event()
    budget.open(2)
    budget.release(LANE, budget.acquire(LANE, 1) - 1)
    chained: list[LeasedMessage] = []
    monkeypatch.setattr(broker.worker, "may_chain", lambda _: True)
    monkeypatch.setattr(broker.worker, "queue_messages", lambda _, messages: chained.extend(messages))
    monkeypatch.setattr("tenants.queues.lane_state.IDLE_SECONDS", PATIENCE)
    message.thread_id = threading.get_ident()
    wake = state.wake_consumer

    def note_and_wake() -> None:
        woken.set()
        wake()

    state.wake_consumer = note_and_wake
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, consumer)
        eventually(lambda: not state.has_work and is_waiting(client))
        # As if another process without a free thread had taken the bell.
        broker.queues_admin.pause(LANE, "b")
        broker.enqueue_once(entry("of b", "b"))
        client.hdel(broker.keys.limits(LANE), "@b")
        client.zadd(f"{broker.keys.root(LANE)}:ready", {"@b": 1})
        message.reschedule(0.05)
        consumer.ack(message)
        assert [each.account for each in chained] == ["b"]
        assert woken.is_set()
        retried = following.result(PATIENCE)
        assert isinstance(retried, LeasedMessage)
        assert retried.account == "a"


def calls_of_scripts(client: Client) -> int:
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


@pytest.mark.parametrize("why", ["something is ready", "a time has come"])
def test_a_consumer_without_a_free_thread_waits_and_calls_no_script(
    broker: TenantBroker, client: Client, why: str
) -> None:
    consumer, (message,) = claimed(broker, "a")
    budget = broker.worker.budget
    budget.open(1)
    assert budget.acquire("another lane", 1) == 1
    broker.enqueue_once(entry("of b", "b"))
    message.lane_state.record_answer(1 if why == "something is ready" else 0, 0, time.monotonic())
    asked = calls_of_scripts(client)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, consumer)
        eventually(lambda: budget.waiting == [LANE])
        assert calls_of_scripts(client) == asked
        assert not following.done()
        budget.release("another lane")
        found = following.result(PATIENCE)
    assert isinstance(found, LeasedMessage)
    assert found.account == "b"


def test_a_consumer_without_a_free_thread_signals_the_bell_again(broker: TenantBroker, client: Client) -> None:
    """It took the bell and cannot use it, so another process must get it."""
    consumer, (message,) = claimed(broker, "a")
    bell = broker.keys.bell(LANE)
    budget = broker.worker.budget
    budget.open(1)
    assert budget.acquire("another lane", 1) == 1
    message.lane_state.record_answer(0, -1, time.monotonic())
    client.delete(bell)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, consumer)
        eventually(lambda: is_waiting(client))
        broker.enqueue_once(entry("of b", "b"))
        eventually(lambda: client.llen(bell) == 1 and budget.waiting == [LANE])
        budget.release("another lane")
        found = following.result(PATIENCE)
    assert isinstance(found, LeasedMessage)
    assert found.account == "b"


def test_a_message_that_is_settled_is_not_interrupted(broker: TenantBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer, (message,) = claimed(broker, "a")
    interrupted: list[int] = []
    monkeypatch.setattr("tenants.queues.leases.raise_thread_exception", lambda thread, _: interrupted.append(thread))
    message.thread_id = 17
    interrupt(message)
    assert interrupted == [17]
    consumer.ack(message)
    interrupt(message)
    assert interrupted == [17]
