"""The scripts against a plain-Python model of what they promise, over thousands of random steps.

The model knows where each entry is (waiting, delayed, leased, buried or gone), who holds which lease and the order
within each account. It does not know whose turn it is among accounts; for that it asks only that the turn is one that
could be: an account that may start something. Time is the server's; the model moves it by making leases and due times
old, as if the clock had gone on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tenants.queues import Entry, QueueLimits, Rate, TenantBroker
from tenants.queues.entry import MAX_SEQUENCE
from tests.queues.lanes import DUE, LANE, Hand, Lease, message, set_state, state_of

ACCOUNTS = ["a", "b:{x}", "*", None]
WORKERS = ["w1", "w2"]
#: Of a rate: so few in so long that none comes back while the test runs.
STARTS = 3
accounts = st.sampled_from(ACCOUNTS)
named = st.sampled_from([each for each in ACCOUNTS if each is not None])

Place = Literal["waiting", "delayed", "leased"]


@dataclass
class Held:
    """An entry that the server must hold."""

    id: str
    order: tuple[int, int]
    place: Place = "waiting"
    deliveries: int = 0
    reschedule: bool = False


@dataclass
class Queue:
    entries: dict[str, Held] = field(default_factory=dict)
    concurrency: int = 1
    max_deliveries: int | None = None
    paused: bool = False
    #: At most STARTS an hour, while it is set; starts while it is not set do not count.
    rated: bool = False
    starts: int = 0

    def at(self, place: Place) -> list[Held]:
        return sorted((each for each in self.entries.values() if each.place == place), key=lambda each: each.order)


class Scripts(RuleBasedStateMachine):
    """Set by the test: the server's URL."""

    url = ""

    @initialize()
    def start(self) -> None:
        self.client: Any = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.broker = TenantBroker(url=self.url)
        self.root = self.broker.keys.root(LANE)
        self.hands = {name: Hand(self.broker, name) for name in WORKERS}
        self.queues = {account: Queue() for account in ACCOUNTS}
        #: (worker, lease) that the workers believe to hold, lost ones too.
        self.leases: list[tuple[str, Lease]] = []
        self.lost: list[tuple[str, Lease]] = []
        self.buried = 0
        self.sequence = 0
        self.highest_epoch = 0
        self.global_concurrency: int | None = None
        self.lane_paused = False
        #: (account, slot, epoch) of leases that took one of the hour's starts.
        self.started: set[tuple[str | None, int, int]] = set()

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            self.broker.close()
            self.client.close()

    # -- what may happen

    @rule(account=accounts, number=st.integers(0, 5), priority=st.sampled_from([0, 5, 9]), delayed=st.booleans())
    def enqueue_once(self, account: str | None, number: int, priority: int, delayed: bool) -> None:
        self.sequence += 1
        entry = Entry(
            message(account),
            f"{number}",
            priority=priority,
            sequence=self.sequence,
            delay_seconds=3600.0 if delayed else 0.0,
        )
        entries = self.queues[account].entries
        assert self.broker.enqueue_once(entry) == (entry.id not in entries)
        if entry.id not in entries:
            place: Place = "delayed" if delayed else "waiting"
            entries[entry.id] = Held(entry.id, (priority, self.sequence), place)
        elif entries[entry.id].place == "delayed" and not delayed:
            entries[entry.id].place = "waiting"  # the earlier time counts

    @rule(worker=st.sampled_from(WORKERS), number=st.integers(1, 4), lose_answer=st.booleans())
    def claim(self, worker: str, number: int, lose_answer: bool) -> None:
        hand = self.hands[worker]
        request = next(hand.numbers)
        claimed = hand.claim(number, request=request)
        if lose_answer:
            again = hand.claim(number, request=request, again=True)
            # Nothing claimed is no answer to keep: the request may claim then.
            assert again == claimed or not claimed
            claimed = again
        self.took(worker, claimed, number)

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["done", "retry", "later", "bury"]),
        chain=st.booleans(),
        lose_answer=st.booleans(),
    )
    def settle(self, data: st.DataObject, outcome: str, chain: bool, lose_answer: bool) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        hand = self.hands[worker]
        verb, delay = ("retry", 3_600_000) if outcome == "later" else (outcome, 0)
        request = next(hand.numbers)
        chained = hand.settle(lease, verb, chain=chain, delay_ms=delay, request=request)
        if lose_answer:
            assert hand.settle(lease, verb, chain=chain, delay_ms=delay, request=request, again=True) == chained
        assert hand.settled
        self.leases.remove((worker, lease))
        self.ended(lease, outcome)
        self.took(worker, chained, int(chain))

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), outcome=st.sampled_from(["done", "retry", "bury"]))
    def settle_too_late(self, data: st.DataObject, outcome: str) -> None:
        worker, lease = data.draw(st.sampled_from(self.lost))
        hand = self.hands[worker]
        hand.settle(lease, outcome)
        assert not hand.settled
        assert not hand.reschedule(lease, 0)
        assert hand.give_back(lease) == 0
        self.lost.remove((worker, lease))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        assert self.hands[worker].give_back(lease) == 1
        self.leases.remove((worker, lease))
        self.take_back_start(lease)
        self.queues[lease.account].entries[lease.id].place = "waiting"
        self.queues[lease.account].entries[lease.id].reschedule = False

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def reschedule(self, data: st.DataObject) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        assert self.hands[worker].reschedule(lease, 3_600_000, b"another payload")
        self.queues[lease.account].entries[lease.id].reschedule = True

    @rule(worker=st.sampled_from(WORKERS), forget=st.booleans())
    def extend(self, worker: str, forget: bool) -> None:
        mine = [lease for name, lease in self.leases if name == worker]
        named_leases = mine[1:] if forget else mine
        lost, given_back = self.hands[worker].extend(*named_leases)
        assert lost == []
        assert given_back == len(mine) - len(named_leases)
        for lease in mine[: len(mine) - len(named_leases)]:
            self.leases.remove((worker, lease))
            self.take_back_start(lease)
            held = self.queues[lease.account].entries[lease.id]
            held.place = "delayed" if held.reschedule else "waiting"
            held.reschedule = False

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        raw = b"-" if lease.account is None else b"@" + lease.account.encode()
        self.client.zadd(f"{self.root}:leases", {b"%d:%s" % (lease.slot, raw): 1})
        assert self.hands[WORKERS[0]].rescue() == 1
        self.leases.remove((worker, lease))
        self.lost.append((worker, lease))
        queue = self.queues[lease.account]
        held = queue.entries[lease.id]
        if held.reschedule:
            held.place, held.deliveries, held.reschedule = "delayed", 0, False
        elif queue.max_deliveries is not None and held.deliveries + 1 >= queue.max_deliveries:
            self.buried += 1
            del queue.entries[lease.id]
        else:
            held.place = "waiting"
            held.deliveries += 1

    @rule(account=accounts)
    def time_passes_for_the_delayed(self, account: str | None) -> None:
        """Everything delayed of the account is due, and somebody looks."""
        raw = "-" if account is None else "@" + account
        key = f"{self.root}:delayed:{raw}"
        for member in self.client.zrange(key, 0, -1):
            self.client.zadd(key, {member: 1})
        if self.client.exists(key):
            state = state_of(self.client, self.root, raw.encode())
            state[DUE] = 1
            set_state(self.client, self.root, raw.encode(), state)
            if self.client.zscore(f"{self.root}:timers", raw) is not None:
                self.client.zadd(f"{self.root}:timers", {raw: 1})
        for held in self.queues[account].at("delayed"):
            held.place = "waiting"
        # A queue that is full or ready is looked at when its turn comes; the model looks now.
        self.broker.queues_admin.check(LANE)

    @rule(account=accounts, number=st.integers(0, 5))
    def remove(self, account: str | None, number: int) -> None:
        held = self.queues[account].entries.get(f"{number}")
        expected = [held.id] if held is not None and held.place != "leased" else []
        assert self.broker.queues_admin.remove(LANE, account, [f"{number}"]) == expected
        for each in expected:
            del self.queues[account].entries[each]

    @rule(account=accounts)
    def purge(self, account: str | None) -> None:
        entries = self.queues[account].entries
        expected = {each.id for each in entries.values() if each.place != "leased"}
        assert set(self.broker.queues_admin.purge(LANE, account)) == expected
        for each in expected:
            del entries[each]

    @rule(
        account=named,
        concurrency=st.integers(1, 3),
        max_deliveries=st.sampled_from([None, 1, 2]),
        weight=st.sampled_from([1, 7, 100]),
        rated=st.booleans(),
    )
    def limit(self, account: str, concurrency: int, max_deliveries: int | None, weight: int, rated: bool) -> None:
        limits = QueueLimits(
            weight=weight,
            concurrency=concurrency,
            max_deliveries=max_deliveries,
            rate=Rate(STARTS, 3600.0 * STARTS) if rated else None,
        )
        self.broker.queues_admin.set_limits(LANE, account, limits)
        self.queues[account].rated = rated
        self.queues[account].concurrency = concurrency
        self.queues[account].max_deliveries = max_deliveries

    @rule(account=named, paused=st.booleans())
    def pause(self, account: str, paused: bool) -> None:
        admin = self.broker.queues_admin
        (admin.pause if paused else admin.resume)(LANE, account)
        self.queues[account].paused = paused

    @rule(most=st.sampled_from([None, 1, 3]))
    def limit_lane(self, most: int | None) -> None:
        self.broker.queues_admin.set_lane_limits(LANE, most)
        self.global_concurrency = most

    @rule()
    def reap(self) -> None:
        before = [account for account, queue in self.queues.items() if not queue.entries]
        reaped = [account for _, account in self.broker.queues_admin.reap(0)]
        assert set(reaped) <= set(before)
        for account in reaped:
            queue = self.queues[account]
            assert not (queue.rated and queue.starts), "its starts are forgotten"
            queue.starts = 0

    @rule(paused=st.booleans())
    def pause_lane(self, paused: bool) -> None:
        admin = self.broker.queues_admin
        (admin.pause if paused else admin.resume)(LANE)
        self.lane_paused = paused

    # -- what must be

    def took(self, worker: str, claimed: list[Lease], number: int) -> None:
        for lease in claimed:
            queue = self.queues[lease.account]
            first = queue.at("waiting")[0]
            assert lease.id == first.id
            assert not queue.paused
            assert not self.lane_paused
            if queue.rated:
                assert queue.starts < STARTS
                queue.starts += 1
                self.started.add((lease.account, lease.slot, lease.epoch))
            assert lease.epoch > self.highest_epoch
            assert lease.deliveries == first.deliveries
            self.highest_epoch = lease.epoch
            first.place = "leased"
            self.leases.append((worker, lease))
            if lease.account is not None:
                assert len(queue.at("leased")) <= queue.concurrency
                assert lease.slot < queue.concurrency
            if self.global_concurrency is not None:
                assert len(self.leases) <= self.global_concurrency
        assert len(claimed) <= number
        if len(claimed) < number and number > 0:
            assert not self.startable()

    def take_back_start(self, lease: Lease) -> None:
        """A message that was never started gives its start back."""
        queue = self.queues[lease.account]
        if (lease.account, lease.slot, lease.epoch) in self.started and queue.rated:
            queue.starts -= 1

    def startable(self) -> list[str | None]:
        if self.lane_paused or (self.global_concurrency is not None and len(self.leases) >= self.global_concurrency):
            return []
        return [
            account
            for account, queue in self.queues.items()
            if queue.at("waiting")
            and not queue.paused
            and not (queue.rated and queue.starts >= STARTS)
            and (account is None or len(queue.at("leased")) < queue.concurrency)
        ]

    def ended(self, lease: Lease, outcome: str) -> None:
        entries = self.queues[lease.account].entries
        held = entries[lease.id]
        if outcome == "bury":
            self.buried += 1
            del entries[lease.id]
        elif outcome == "later" or (outcome == "done" and held.reschedule):
            held.place = "delayed"
        elif outcome == "retry":
            held.place = "waiting"
        else:
            del entries[lease.id]
        held.deliveries, held.reschedule = 0, False

    @invariant()
    def each_entry_is_in_one_place(self) -> None:
        if not hasattr(self, "queues"):
            return
        admin = self.broker.queues_admin
        totals = admin.totals(LANE)
        sums = [0, 0, 0]
        for account, queue in self.queues.items():
            described = admin.describe(LANE, account)
            found = (described.waiting, described.delayed, described.active) if described else (0, 0, 0)
            expected = tuple(len(queue.at(place)) for place in ("waiting", "delayed", "leased"))
            assert found == expected, (account, found, expected)
            for position in range(3):
                sums[position] += expected[position]
            held = admin.contains(LANE, account, [f"{number}" for number in range(6)])
            assert held == set(queue.entries)
        assert (totals.waiting, totals.delayed, totals.active) == tuple(sums)
        assert totals.ready == len([each for each in self.queues if each in self.startable_in_queue()])
        assert totals.buried == self.buried

    def startable_in_queue(self) -> list[str | None]:
        kept = self.global_concurrency, self.lane_paused
        self.global_concurrency, self.lane_paused = None, False
        found = self.startable()
        self.global_concurrency, self.lane_paused = kept
        return found

    @invariant()
    def the_live_check_finds_nothing(self) -> None:
        if hasattr(self, "broker"):
            assert self.broker.queues_admin.check(LANE) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_scripts_do_what_the_model_does(redis_url: str) -> None:
    assert MAX_SEQUENCE > 1000
    machine = type("Machine", (Scripts,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
