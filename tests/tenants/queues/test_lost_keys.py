"""The broker alone: keys are lost, and no message whose bytes are still there is lost with them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, given, settings

from tenants.queues import QueueLimits, TenantBroker
from tests.tenants.queues.damage import Damage, How
from tests.tenants.queues.lanes import LANE, Client, Hand, entry

#: Account → concurrency of its tenant queue.
CONCURRENCY: dict[str | None, int] = {"a": 1, "b": 2, None: 9}
hows: st.SearchStrategy[How] = st.sampled_from(["delete", "delete", "truncate", "restore"])
losses = st.lists(st.tuples(st.integers(0, 1000), hows), min_size=1, max_size=8)


def token_of(account: str | None) -> str:
    return "-" if account is None else f"@{account}"


def ids_with_bytes(client: Client, root: str) -> set[tuple[str | None, str]]:
    return {
        (account, raw.decode())
        for account in CONCURRENCY
        for raw in client.hkeys(f"{root}:entries:{token_of(account)}")
    }


def fill(broker: TenantBroker, first: int) -> None:
    for account in CONCURRENCY:
        broker.enqueue_many(entry(str(number), account) for number in range(first, first + 4))
        broker.enqueue_once(entry(f"late {first}", account, delay_seconds=3600))


def repair(broker: TenantBroker, client: Client) -> None:
    """What is left of every lease ends, and the check is called until it finds nothing more."""
    leases = f"{broker.keys.root(LANE)}:leases"
    for _ in range(3):
        broker.queues_admin.check(LANE)
        for member in client.zrange(leases, 0, -1):
            client.zadd(leases, {member: 1})
        Hand(broker).rescue()
    broker.queues_admin.check(LANE)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=losses, after=losses, taken=st.integers(0, 6))
def every_message_with_bytes_runs(url: str, before: list[tuple[int, How]], after: Any, taken: int) -> None:
    client: Any = redis.Redis.from_url(url)
    client.flushall()
    broker = TenantBroker(url=url)
    broker.queues_admin.set_limits(LANE, "b", QueueLimits(concurrency=2))
    damage, hand, root = Damage(client, broker.keys.root(LANE)), Hand(broker), broker.keys.root(LANE)
    fill(broker, 0)
    for lease in hand.claim(4)[:2]:
        hand.settle(lease)
    damage.copy()
    hand.claim(taken)
    for hurt in (before, after):
        for which, how in hurt:
            keys = damage.keys()
            damage.do(keys[which % len(keys)], how)
        if hurt is before:
            fill(broker, 100)  # callers go on while keys are lost
            hand.claim(taken)
    wanted = ids_with_bytes(client, root)
    repair(broker, client)
    assert broker.queues_admin.check(LANE) == []
    held = [(page.account, each) for page in broker.queues_admin.entries(LANE) for each in page.ids]
    assert sorted(held, key=str) == sorted(wanted, key=str)
    ran: set[tuple[str | None, str]] = set()
    while claimed := hand.claim(20):
        for lease in claimed:
            ran.add((lease.account, lease.id))
            hand.settle(lease)
    assert {each for each in wanted if not each[1].startswith("late")} <= ran
    totals = broker.queues_admin.totals(LANE)
    assert (totals.waiting, totals.active) == (0, 0)
    broker.close()
    client.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_message_is_lost_whose_bytes_are_there(redis_url: str) -> None:
    every_message_with_bytes_runs(redis_url)


@pytest.mark.parametrize("suffix", ["state", "waiting", "delayed", "entries", "slots"])
def test_a_key_of_one_queue_blocks_no_other(broker: TenantBroker, client: Client, suffix: str) -> None:
    """Cut in the middle of a claim's work: the other account's message runs, and the check finds the damage."""
    broker.enqueue_many(entry(str(number), account) for account in ("hurt", "well") for number in range(3))
    Damage(client, "onelane:").do(f"{broker.keys.root(LANE)}:{suffix}:@hurt".encode(), "truncate")
    hand, ran = Hand(broker), []
    for _ in range(20):
        for lease in hand.claim(2):
            ran.append(lease.account)
            hand.settle(lease)
    assert ran.count("well") == 3


def test_a_lost_lease_keeps_its_slot_until_it_ends(broker: TenantBroker, client: Client) -> None:
    """The state that holds the lease of the only slot is gone; its worker may still be at work."""
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    lease = hand.claim_one()
    client.delete(f"{hand.root}:state:@acme")
    broker.enqueue_once(entry("3"))
    assert hand.claim(3) == []
    assert hand.extend(lease)[0] == [0], "the worker learns that the lease is lost"
    client.zadd(f"{hand.root}:leases", {"0:@acme": 1})
    assert hand.rescue() == 1
    broker.queues_admin.check(LANE)
    ran = []
    while claimed := hand.claim():
        ran.append(claimed[0].id)
        hand.settle(claimed[0])
    assert ran == ["1", "2", "3"]


def test_what_is_orphaned_is_added_again(broker: TenantBroker, client: Client) -> None:
    """The list of those that wait is gone, and the message still there: to enqueue it once is no no-op."""
    broker.enqueue_once(entry("1"))
    client.delete(f"{broker.keys.root(LANE)}:waiting:@acme")
    assert [each.code for each in broker.queues_admin.explain(LANE, "acme", "1")] == ["damaged"]
    assert broker.enqueue_once(entry("1"))
    assert Hand(broker).claim_one().id == "1"


def test_the_check_names_what_it_repaired_once(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_many([entry("1"), entry("2")])
    client.delete(f"{broker.keys.root(LANE)}:waiting:@acme")
    found = [each.kind for each in broker.queues_admin.check(LANE)]
    assert found.count("in_no_place") == 2
    assert broker.queues_admin.check(LANE) == []
    assert [each.id for each in Hand(broker).claim(1)] == ["1"]


def test_a_large_queue_is_repaired_in_parts(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_many(entry(f"{number:05}") for number in range(3000))
    client.zremrangebyrank(f"{broker.keys.root(LANE)}:waiting:@acme", 100, 2099)
    found = [each.kind for each in broker.queues_admin.check(LANE)]
    assert found.count("in_no_place") == 2000
    assert broker.queues_admin.check(LANE) == []
    assert broker.queues_admin.position(LANE, "acme", "01500") == 1500


def test_missing_names_what_the_lane_does_not_hold(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_many([entry("1"), entry("2"), entry("1", "other")])
    client.hdel(f"{broker.keys.root(LANE)}:entries:@acme", "1")
    client.delete(f"{broker.keys.root(LANE)}:ready")
    missing, found = broker.queues_admin.missing(LANE, [("acme", "1"), ("acme", "2"), ("other", "1"), ("new", "9")])
    assert missing == [("acme", "1"), ("new", "9")]
    assert {each.kind for each in found} == {"stands_nowhere"}
    assert sorted(str(each.account) for each in Hand(broker).claim(5)) == ["acme", "other"]
    assert broker.queues_admin.describe(LANE, "new") is None
