"""P1 and order: a tenant queue runs no more than its concurrency, in the order of priority and sequence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker

from tenants.queues import Entry, InvalidEntry, QueueLimits, TenantBroker, current_message
from tenants.queues.server import Call, Server
from tests.tenants.queues.conftest import PATIENCE_MS, eventually
from tests.tenants.queues.lanes import LANE, Client, Hand, entry, message

StrangeAccounts = [
    "*",
    ":",
    "{}",
    "{x}",
    "a:b",
    "a/b",
    " ",
    "a b",
    "\u00e9",
    "e\u0301",
    "A",
    "a",
    "🦊",
    "-",
    "@",
    "@a",
    "x" * 200,
]


def test_one_message_of_an_account_at_a_time(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2"), entry("3", "other")])
    hand = Hand(broker)
    first = hand.claim(10)
    assert [(each.account, each.id, each.slot) for each in first] == [("acme", "1", 0), ("other", "3", 0)]
    assert hand.claim(10) == []
    hand.settle(first[0])
    assert [each.id for each in hand.claim(10)] == ["2"]


def test_a_settle_brings_the_next_message(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    assert [each.id for each in hand.settle(hand.claim_one(), chain=True)] == ["2"]


def test_messages_without_an_account_have_no_limit_on_concurrency(broker: TenantBroker) -> None:
    broker.enqueue_many([entry(str(number), None) for number in range(5)])
    leases = Hand(broker).claim(10)
    assert [each.id for each in leases] == ["0", "1", "2", "3", "4"]
    assert len({each.slot for each in leases}) == 5


def test_slots_are_numbered_from_nought_and_used_again(broker: TenantBroker) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(concurrency=2))
    broker.enqueue_many([entry(str(number)) for number in range(4)])
    hand = Hand(broker)
    first, second = hand.claim(10)
    assert (first.slot, second.slot) == (0, 1)
    hand.settle(first)
    assert hand.claim_one().slot == 0


def test_priority_then_sequence_then_arrival(broker: TenantBroker) -> None:
    broker.enqueue_many(
        [
            entry("low", priority=9),
            entry("late", sequence=100),
            entry("early", sequence=50),
            entry("high", priority=0),
        ]
    )
    hand, order = Hand(broker), []
    leases = hand.claim()
    while leases:
        order.append(leases[0].id)
        leases = hand.settle(leases[0], chain=True)
    assert order == ["high", "early", "late", "low"]


def test_a_retry_keeps_its_place(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    hand.settle(hand.claim_one(), "retry")
    assert hand.claim_one().id == "1"


@pytest.mark.parametrize("account", StrangeAccounts)
def test_any_account_has_a_queue_of_its_own(broker: TenantBroker, account: str) -> None:
    broker.enqueue_many([entry(f"{position}", each) for position, each in enumerate(StrangeAccounts)])
    admin = broker.queues_admin
    assert admin.purge(LANE, account) == [str(StrangeAccounts.index(account))]
    assert admin.totals(LANE).waiting == len(StrangeAccounts) - 1
    described = admin.describe(LANE, account)
    assert described is not None
    assert described.account == account
    assert {each.account for each in Hand(broker).claim(100)} == set(StrangeAccounts) - {account}


@pytest.mark.parametrize("account", ["", "x" * 201, "\ud800", 7])
def test_an_account_that_cannot_be_one_is_refused(broker: TenantBroker, client: Client, account: object) -> None:
    with pytest.raises(InvalidEntry, match="account"):
        broker.enqueue(message(account))  # type: ignore[arg-type]
    assert client.keys() == []


def test_an_entry_is_added_once_while_it_is_held(broker: TenantBroker) -> None:
    hand = Hand(broker)
    assert broker.enqueue_once(entry("1"))
    assert not broker.enqueue_once(entry("1"))
    lease = hand.claim_one()
    assert not broker.enqueue_once(entry("1"))
    hand.settle(lease, "retry", delay_ms=60_000)
    assert not broker.enqueue_once(entry("1"))
    assert broker.enqueue_once(entry("1", "other"))
    assert broker.queues_admin.remove(LANE, "acme", ["1"]) == ["1"]
    assert broker.enqueue_once(entry("1"))


def test_of_a_delayed_entry_that_is_enqueued_again_the_earlier_time_counts(broker: TenantBroker) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    broker.enqueue_many([entry("1", delay_seconds=3600), entry("2", delay_seconds=7200)])

    def due(entry_id: str) -> float:
        (delayed,) = admin.explain(LANE, "acme", entry_id)
        assert delayed.until is not None
        return (delayed.until - datetime.now(UTC)).total_seconds()

    assert not broker.enqueue_once(entry("2", delay_seconds=60))
    assert due("2") == pytest.approx(60, abs=30)
    assert not broker.enqueue_once(entry("2", delay_seconds=3600))
    assert due("2") == pytest.approx(60, abs=30)
    assert not broker.enqueue_once(entry("1"))
    assert due("2") == pytest.approx(60, abs=30)
    totals = admin.totals(LANE)
    assert (totals.waiting, totals.delayed) == (1, 1)
    lease = hand.claim_one()
    assert lease.id == "1"
    assert not broker.enqueue_once(entry("1"))  # it runs: nothing is brought forward
    hand.settle(lease)
    assert admin.check(LANE) == []
    assert admin.totals(LANE).waiting == 0


def test_a_thousand_entries_in_one_round_trip(broker: TenantBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry(str(number), f"account-{number % 300}") for number in range(1000)]
    broker.enqueue_once(entry("first"))
    calls: list[int] = []
    run_many = Server.run_many

    def note(self: Server, scripts: Sequence[Call]) -> list[Any]:
        calls.append(len(scripts))
        return run_many(self, scripts)

    monkeypatch.setattr(Server, "run_many", note)
    assert broker.enqueue_many(entries) == 1000
    assert len(calls) == 1
    assert calls[0] <= 6
    broker.queues_admin.purge(LANE, "acme")
    assert broker.enqueue_many(entries) == 0
    assert broker.queues_admin.totals(LANE).waiting == 1000
    held = broker.queues_admin.contains_many(LANE, ((f"account-{n % 300}", str(n)) for n in range(1100)))
    assert sum(map(len, held.values())) == 1000


def test_never_two_of_an_account_over_two_workers(
    broker: TenantBroker, make_broker: Callable[..., TenantBroker], start_worker: Callable[..., Worker]
) -> None:
    running: dict[str | None, int] = {}
    overlaps: list[str | None] = []
    done: list[str] = []
    mutex = threading.Lock()
    pause = threading.Event()

    def act(n: int) -> None:
        current = current_message()
        assert current is not None
        with mutex:
            running[current.account] = running.get(current.account, 0) + 1
            if running[current.account] > 1:
                overlaps.append(current.account)
        pause.wait(0.002)
        with mutex:
            running[current.account] -= 1
            done.append(current.entry_id)

    other = make_broker()
    for each in (broker, other):
        dramatiq.actor(broker=each, queue_name=LANE)(act)
    start_worker(broker)
    start_worker(other)
    for number in range(200):
        broker.enqueue(
            dramatiq.Message(LANE, "act", (number,), {}, {"account": f"a{number % 7}"}),
        )
    eventually(lambda: len(done) == 200)
    assert overlaps == []
    assert len(set(done)) == 200
    broker.join(LANE, timeout=PATIENCE_MS)


def test_entries_say_what_is_wrong() -> None:
    for fields, word in [
        ({"priority": 10}, "priority"),
        ({"sequence": -1}, "sequence"),
        ({"delay_seconds": -1.0}, "delay"),
    ]:
        with pytest.raises(InvalidEntry, match=word):
            Entry(message(), "1", **fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidEntry, match="entry id"):
        Entry(message(), "")
