"""Leases: the slot is the lease, epochs fence, lost answers and expired leases lose nothing and double nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import dramatiq
from dramatiq import Message, Worker
from dramatiq.middleware import AsyncIO

from tenants.queues import LeaseLost, QueueLimits, TenantBroker
from tests.tenants.queues.conftest import PATIENCE_MS, eventually
from tests.tenants.queues.lanes import LANE, Client, Hand, entry


def expire(client: Client, broker: TenantBroker) -> None:
    """Moves every lease's expiry into the past, as if its time had gone by."""
    key = f"{broker.keys.root(LANE)}:leases"
    for member in client.zrange(key, 0, -1):
        client.zadd(key, {member: 1})


def test_an_expired_lease_goes_back_and_the_old_holder_is_refused(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_once(entry("1"))
    old, new = Hand(broker, "old"), Hand(broker, "new")
    first = old.claim_one()
    expire(client, broker)
    second = new.claim_one()
    assert (second.id, second.slot) == ("1", 0)
    assert second.epoch > first.epoch
    assert second.deliveries == 1
    old.settle(first)
    assert not old.settled
    assert old.extend(first) == ([0], 0)
    assert broker.queues_admin.contains(LANE, "acme", ["1"]) == {"1"}
    new.settle(second)
    assert new.settled
    assert broker.queues_admin.contains(LANE, "acme", ["1"]) == set()


def test_two_rescuers_rescue_once(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)
    hand.claim_one()
    expire(client, broker)
    assert hand.rescue() == 1
    assert hand.rescue() == 0
    assert hand.claim_one().deliveries == 1


def test_an_extension_never_shortens(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)
    lease = hand.claim_one()
    key = f"{broker.keys.root(LANE)}:leases"
    (member,) = client.zrange(key, 0, -1)
    far = time.time() * 1000 + 1e9
    client.zadd(key, {member: far})
    assert hand.extend(lease) == ([], 0)
    assert client.zscore(key, member) == far


def test_epochs_grow_across_a_loss_of_all_data(broker: TenantBroker, client: Client) -> None:
    hand = Hand(broker)
    broker.enqueue_once(entry("1"))
    before = hand.claim_one().epoch
    client.flushall()
    broker.enqueue_once(entry("1"))
    assert hand.claim_one().epoch > before


def test_a_claim_whose_answer_was_lost_gives_the_same_answer(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2", "other"), entry("3", "third")])
    hand = Hand(broker)
    lost = hand.claim(2, request=7)
    assert hand.claim(2, request=7, again=True) == lost
    assert [each.id for each in hand.claim(2)] == ["3"]


def test_a_large_lost_answer_is_repeated_for_any_account_names(broker: TenantBroker) -> None:
    names = [f"{number}\0:\n%é" for number in range(40)]
    broker.enqueue_many([entry(name, name) for name in names])
    hand = Hand(broker)
    lost = hand.claim(20, request=7)
    assert [each.account for each in lost] == names[:20]
    assert hand.claim(20, request=7, again=True) == lost
    next_lost = hand.settle(lost[0], chain=True, request=8)
    assert hand.settle(lost[0], chain=True, request=8, again=True) == next_lost
    assert [each.account for each in next_lost] == names[20:21]


def test_a_settle_that_is_sent_again_settles_once_and_answers_the_same(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2"), entry("3", "other")])
    hand = Hand(broker)
    first = hand.claim_one()
    lost = hand.settle(first, chain=True, request=8)
    assert hand.settle(first, chain=True, request=8, again=True) == lost
    assert hand.settled
    assert broker.queues_admin.totals(LANE).active == 1


def test_what_the_server_holds_and_the_worker_does_not_name_goes_back(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2", "other"), entry("3", "third")])
    hand = Hand(broker)
    (kept,) = hand.claim(1, request=1)
    hand.claim(1, request=2)
    hand.claim(1, request=3)
    assert hand.extend(kept, issued=3, in_flight=(3,)) == ([], 1)
    (again,) = hand.claim(5, request=4)
    assert (again.id, again.deliveries) == ("2", 0)


def test_what_is_forgotten_is_found_behind_many_others(broker: TenantBroker) -> None:
    """An extension looks at the leases that end first; the others' are named meanwhile, and end later than it."""
    broker.enqueue_many([entry(str(number), f"a{number}") for number in range(151)])
    others, hand = Hand(broker, "others"), Hand(broker, "own")
    theirs = others.claim(150)
    assert len(theirs) == 150
    forgotten = hand.claim_one()
    assert hand.extend() == ([], 0)
    assert others.extend(*theirs) == ([], 0)
    assert hand.extend() == ([], 1)
    assert others.extend(*theirs) == ([], 0)
    assert hand.claim_one().id == forgotten.id


def test_an_answer_is_kept_until_its_channel_is_used_again(broker: TenantBroker, client: Client) -> None:
    """And it is one field for each channel, however many messages go through it."""
    broker.enqueue_many([entry(str(number), f"a{number}") for number in range(40)])
    hand = Hand(broker)
    first = hand.claim(5, request=1)
    second = hand.claim(5, request=2)
    assert hand.claim(5, request=2, again=True) == second
    for lease in first:
        hand.settle(lease)
    hand.settle(second[0], chain=True)
    assert client.hkeys(f"{broker.keys.root(LANE)}:worker:w1") == [b"r0"]


def test_what_is_kept_for_a_worker_ends_with_it(broker: TenantBroker, client: Client) -> None:
    """Also where all that it ever did since Redis lost its data is one settle."""
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)
    lease = hand.claim_one()
    key = f"{broker.keys.root(LANE)}:worker:w1"
    assert 0 < client.pttl(key) <= 600_000
    client.flushall()
    hand.settle(lease)
    assert not hand.settled
    assert 0 < client.pttl(key) <= 600_000


def test_given_back_costs_nothing(broker: TenantBroker) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_deliveries=1))
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)
    lease = hand.claim_one()
    for _ in range(3):
        assert lease.deliveries == 0
        assert hand.give_back(lease) == 1
        assert hand.give_back(lease) == 0
        lease = hand.claim_one()


def test_a_recorded_reschedule_is_applied_by_the_rescue(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)
    lease = hand.claim_one()
    assert hand.reschedule(lease, 3_600_000, b"new payload")
    expire(client, broker)
    assert hand.rescue() == 1
    totals = broker.queues_admin.totals(LANE)
    assert (totals.waiting, totals.delayed, totals.active) == (0, 1, 0)
    (stored,) = client.hvals(f"{broker.keys.root(LANE)}:entries:@acme")
    assert stored.endswith(b":0:new payload")


def test_a_poisonous_message_is_buried(broker: TenantBroker, client: Client) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_deliveries=2))
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)
    for _ in range(2):
        hand.claim_one()
        expire(client, broker)
        hand.rescue()
    assert hand.claim() == []
    (buried,) = broker.queues_admin.buried(LANE)
    assert (buried.account, buried.entry_id, buried.reason) == ("acme", "1", "max_deliveries")
    assert Message.decode(buried.payload).queue_name == LANE
    assert broker.queues_admin.take_buried(LANE, [buried.buried_id]) == 1
    assert broker.queues_admin.buried(LANE) == []


def test_a_lost_lease_interrupts_the_actor(
    make_broker: Callable[..., TenantBroker], start_worker: Callable[..., Worker], client: Client
) -> None:
    broker = make_broker(lease_seconds=30.0, extend_seconds=0.05, middleware=[])
    seen: list[str] = []

    @dramatiq.actor(broker=broker, queue_name=LANE)
    def act() -> None:
        seen.append("started")
        try:
            deadline = time.monotonic() + PATIENCE_MS / 1000
            while time.monotonic() < deadline:
                time.sleep(0.005)
        except LeaseLost:
            seen.append("interrupted")

    act.send_with_options(account="acme")
    start_worker(broker)
    eventually(lambda: seen == ["started"])
    client.flushall()
    eventually(lambda: seen == ["started", "interrupted"])


def test_a_lost_lease_interrupts_an_actor_that_awaits(
    make_broker: Callable[..., TenantBroker], start_worker: Callable[..., Worker], client: Client
) -> None:
    broker = make_broker(lease_seconds=30.0, extend_seconds=0.05, middleware=[AsyncIO()])
    seen: list[str] = []

    async def act() -> None:
        seen.append("started")
        try:
            await asyncio.sleep(PATIENCE_MS / 1000)
        except asyncio.CancelledError:
            seen.append("interrupted")
            raise

    dramatiq.actor(broker=broker, queue_name=LANE)(act).send_with_options(account="acme")
    start_worker(broker)
    eventually(lambda: seen == ["started"])
    client.flushall()
    eventually(lambda: seen == ["started", "interrupted"])


def test_a_long_message_keeps_its_lease(
    make_broker: Callable[..., TenantBroker], start_worker: Callable[..., Worker], client: Client
) -> None:
    broker = make_broker(lease_seconds=30, extend_seconds=0.1)
    runs: list[int] = []
    go = threading.Event()

    @dramatiq.actor(broker=broker, queue_name=LANE)
    def act() -> None:
        runs.append(1)
        go.wait(PATIENCE_MS / 1000)

    def ends_at() -> float:
        """When the lease ends, ms; 0 without one."""
        return max((score for _, score in client.zrange(key, 0, -1, withscores=True)), default=0.0)

    key = f"{broker.keys.root(LANE)}:leases"
    act.send_with_options(account="acme")
    start_worker(broker)
    eventually(lambda: ends_at() > 0)
    # As if most of its time had gone by: the worker's next word moves the end to where it belongs.
    (member,) = client.zrange(key, 0, -1)
    client.zadd(key, {member: time.time() * 1000 + 20_000})
    eventually(lambda: ends_at() > time.time() * 1000 + 25_000)
    go.set()
    broker.join(LANE, timeout=PATIENCE_MS)
    assert runs == [1]
