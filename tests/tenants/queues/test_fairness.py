"""Weighted fair shares of the workers' time, for accounts that always have work."""

from __future__ import annotations

import time
from typing import Any

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, given, settings

from tenants.queues import Entry, QueueLimits, StoredSettings, TenantBroker
from tests.tenants.queues.lanes import LANE, VIRTUAL_START, Client, Hand, age_lease, clock_of, entry, message, state_of


class Share:
    """An account that always has work, and what it used: at least, at most, and at most with one message."""

    def __init__(self, weight: int, seconds: float) -> None:
        self.weight, self.seconds = weight, seconds
        self.at_least = self.at_most = 0.0
        self.longest = seconds

    def use(self, at_least: float, at_most: float) -> None:
        self.at_least += at_least
        self.at_most += at_most
        self.longest = max(self.longest, at_most)


@pytest.mark.slow
@pytest.mark.timeout(300)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shares=st.lists(st.tuples(st.integers(1, 100), st.floats(0.05, 3.0)), min_size=2, max_size=5),
    workers=st.integers(1, 3),
)
def test_no_account_is_ahead_of_another_by_more_than_its_own_messages(
    redis_url: str, shares: list[tuple[int, float]], workers: int
) -> None:
    """Start-time fair queueing's bound: seconds for a weight differ by no more than the longest messages of the two."""
    client: Any = redis.Redis.from_url(redis_url)
    client.flushall()
    broker = TenantBroker(url=redis_url)
    accounts = {f"a{number}": Share(*share) for number, share in enumerate(shares)}

    for account, share in accounts.items():
        broker.queues_admin.set_limits(LANE, account, QueueLimits(weight=share.weight, concurrency=10))
        broker.enqueue_many(Entry(message(account), str(n)) for n in range(90))
    hand = Hand(broker)
    running = hand.claim(workers)
    for number in range(80):
        lease = running.pop(number % len(running))
        share = accounts[str(lease.account)]
        age_lease(client, broker, lease, share.seconds)
        # The server charges the time that really passed since the claim as well, which may be long on a busy machine.
        since, before = lease.epoch / 1e6, time.time()
        running += hand.settle(lease, chain=True)
        share.use(before - since, time.time() - since)
    for one in accounts.values():
        for other in accounts.values():
            ahead = one.at_least / one.weight - other.at_most / other.weight
            assert ahead <= (workers + 1) * (one.longest / one.weight + other.longest / other.weight) + 0.5
    broker.close()
    client.close()


def test_a_changed_weight_changes_what_is_owed(broker: TenantBroker, client: Client) -> None:
    """What an account has used counts by its weight, also what it used before the weight was changed."""
    admin, hand, root = broker.queues_admin, Hand(broker), broker.keys.root(LANE)

    def owed_seconds() -> float:
        start: float = state_of(client, root, b"@acme")[VIRTUAL_START]
        return (start - clock_of(client, root)) / 1e6

    broker.enqueue_many([entry("1"), entry("2")])
    lease = hand.claim_one()
    age_lease(client, broker, lease, 40)
    hand.settle(lease)
    assert owed_seconds() == pytest.approx(40, abs=5)
    admin.set_limits(LANE, "acme", QueueLimits(weight=10))
    assert owed_seconds() == pytest.approx(4, abs=0.5)
    admin.set_settings(LANE, {"acme": StoredSettings(limits=QueueLimits(weight=2))})
    assert owed_seconds() == pytest.approx(20, abs=2.5)
    admin.pause(LANE, "acme")
    assert owed_seconds() == pytest.approx(20, abs=2.5)
