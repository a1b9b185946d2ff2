"""The scripts against a plain-Python model of what they promise (model.py), over thousands of random steps.

A step is what callers and workers do, or time that passes. Time is the server's; the machine moves it by making leases,
due times, backoffs and pauses old, as if the clock had gone on. After each step server and model must agree, and the
live check must find nothing.

One class, however long: Hypothesis draws the rules of a machine from one.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

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

from tenants.queues import Entry, QueueFull, QueueLimits, Rate, TenantBroker
from tenants.queues.entry import MAX_SEQUENCE
from tests.tenants.queues.lanes import DUE, LANE, Hand, Lease, message, set_state, state_of
from tests.tenants.queues.model import STARTS, Asked, Model, Pause

ACCOUNTS = ["a", "b:{x}", "*", None]
WORKERS = ["w1", "w2"]
#: Lanes that are used for the first time at some later step.
LATER_LANES = ["second", "third", "fourth"]
#: Of a tenant queue's state: until when a strict backoff holds it. Of the lane's: until when it is paused.
HOLD = 6
LANE_STATE, LANE_PAUSED = struct.Struct(">14d"), 5
#: Where the pauses stand in the stored settings.
PAUSES = slice(7, 9)
accounts = st.sampled_from(ACCOUNTS)
named = st.sampled_from([each for each in ACCOUNTS if each is not None])
workers = st.sampled_from(WORKERS)
#: What is picked from what there is then. How much that is may hang on the server's clock, and Hypothesis wants the
#: same draws when it repeats steps; so no strategy and no precondition looks at it.
indexes = st.integers(0, 11)
outcomes = st.sampled_from(["done", "retry", "later", "later", "bury"])
pauses: st.SearchStrategy[Pause] = st.sampled_from(["no", "no", "an hour", "for good"])
asked = st.builds(
    lambda account, number, priority, delayed: Asked(account, f"{number}", (priority, 0), delayed),
    accounts,
    st.integers(0, 5),
    st.sampled_from([0, 5, 9]),
    st.booleans(),
)


def ends_at(paused: Pause) -> datetime | None:
    return datetime.now(UTC) + timedelta(hours=1) if paused == "an hour" else None


def token_of(account: str | None) -> str:
    return "-" if account is None else "@" + account


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
        #: Another process, which knows only what the server does.
        self.other = TenantBroker(url=self.url)
        self.hands_elsewhere = {lane: Hand(self.broker, lane=lane) for lane in LATER_LANES}
        self.model = Model(ACCOUNTS)
        self.queues = self.model.queues
        #: (worker, lease) that the workers believe to hold, lost ones too.
        self.leases: list[tuple[str, Lease]] = []
        self.lost: list[tuple[str, Lease]] = []
        self.sequence = 0
        self.highest_epoch = 0
        #: (account, slot, epoch) of leases that took one of the hour's starts.
        self.started: set[tuple[str | None, int, int]] = set()
        # Most of what can happen needs messages, and limits that they run into.
        self.enqueue([Asked(account, f"{number}", (5, 0), False) for account in ACCOUNTS for number in range(3)])
        for account, strict in (("a", True), ("*", False)):
            self.limit(account, 2, None, 4, 1, False, strict)

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            self.broker.close()
            self.other.close()
            self.client.close()

    # -- what may happen

    @rule(one=asked)
    def enqueue_once(self, one: Asked) -> None:
        self.enqueue([one])

    @rule(many=st.lists(asked, min_size=2, max_size=6))
    def enqueue_many(self, many: list[Asked]) -> None:
        self.enqueue(many)

    def enqueue(self, wanted: list[Asked]) -> None:
        numbered = []
        for each in wanted:
            self.sequence += 1
            numbered.append(replace(each, order=(each.order[0], self.sequence)))
        entries = [
            Entry(
                message(each.account),
                each.id,
                priority=each.order[0],
                sequence=each.order[1],
                delay_seconds=3600.0 if each.delayed else 0.0,
            )
            for each in numbered
        ]
        full = self.model.full(numbered)
        if full is None:
            added = self.broker.enqueue_once(entries[0]) if len(entries) == 1 else self.broker.enqueue_many(entries)
            assert added == self.model.enqueue(numbered)
            return
        with pytest.raises(QueueFull) as caught:
            self.broker.enqueue_many(entries)
        assert (caught.value.lane, caught.value.account) == (LANE, full)
        assert caught.value.max_waiting == self.queues[full].max_waiting

    @rule(worker=workers, number=st.integers(1, 4), lose_answer=st.booleans())
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

    def one_of_the_leases(self, which: int) -> list[tuple[str, Lease]]:
        """A lease that is held, or one taken now; none when nothing can start."""
        if not self.leases:
            self.claim_one(WORKERS[0])
        return self.leases[which % len(self.leases) :][:1] if self.leases else []

    @rule(which=indexes, outcome=outcomes, chain=st.booleans(), lose_answer=st.booleans())
    def settle(self, which: int, outcome: str, chain: bool, lose_answer: bool) -> None:
        for worker, lease in self.one_of_the_leases(which):
            self.end(worker, lease, outcome, chain=chain, lose_answer=lose_answer)

    # Hypothesis takes the rule without arguments most often.
    @rule()
    def fail(self) -> None:
        """A message is run and is to be run again in an hour."""
        for lease in self.claim_one(WORKERS[0]):
            self.end(WORKERS[0], lease, "later", chain=True)

    @rule(worker=workers, ends=st.lists(outcomes, min_size=1, max_size=4))
    def work(self, worker: str, ends: list[str]) -> None:
        """Messages one after the other, each started by the settle of the one before."""
        leases = self.claim_one(worker)
        for outcome in ends:
            if leases:
                leases = self.end(worker, leases[0], outcome, chain=True)

    def end(self, worker: str, lease: Lease, outcome: str, *, chain: bool, lose_answer: bool = False) -> list[Lease]:
        hand = self.hands[worker]
        verb, delay = ("retry", 3_600_000) if outcome == "later" else (outcome, 0)
        request = next(hand.numbers)
        chained = hand.settle(lease, verb, chain=chain, delay_ms=delay, request=request)
        if lose_answer:
            assert hand.settle(lease, verb, chain=chain, delay_ms=delay, request=request, again=True) == chained
        assert hand.settled
        self.leases.remove((worker, lease))
        self.model.settle(lease.account, lease.id, outcome)
        self.took(worker, chained, int(chain))
        return chained

    @rule(outcome=st.sampled_from(["done", "retry", "bury"]))
    def settle_too_late(self, outcome: str) -> None:
        while self.lost:
            worker, lease = self.lost.pop()
            hand = self.hands[worker]
            hand.settle(lease, outcome)
            assert not hand.settled
            assert not hand.reschedule(lease, 0)
            assert hand.give_back(lease) == 0

    @rule(which=indexes)
    def give_back(self, which: int) -> None:
        for worker, lease in self.one_of_the_leases(which):
            assert self.hands[worker].give_back(lease) == 1
            self.leases.remove((worker, lease))
            self.take_back_start(lease)
            self.queues[lease.account].put_back(lease.id, later=False)

    @rule(which=indexes)
    def reschedule(self, which: int) -> None:
        for worker, lease in self.one_of_the_leases(which):
            assert self.hands[worker].reschedule(lease, 3_600_000, b"another payload")
            self.queues[lease.account].entries[lease.id].reschedule = True

    @rule(worker=workers, forget=st.booleans())
    def extend(self, worker: str, forget: bool) -> None:
        mine = [lease for name, lease in self.leases if name == worker]
        named_leases = mine[1:] if forget else mine
        lost, given_back = self.hands[worker].extend(*named_leases)
        assert lost == []
        assert given_back == len(mine) - len(named_leases)
        for lease in mine[: len(mine) - len(named_leases)]:
            self.leases.remove((worker, lease))
            self.take_back_start(lease)
            queue = self.queues[lease.account]
            queue.put_back(lease.id, later=queue.entries[lease.id].reschedule)

    @rule(which=indexes)
    def expire(self, which: int) -> None:
        for worker, lease in self.one_of_the_leases(which):
            self.client.zadd(f"{self.root}:leases", {f"{lease.slot}:{token_of(lease.account)}": 1})
            assert self.hands[WORKERS[0]].rescue() == 1
            self.leases.remove((worker, lease))
            self.lost.append((worker, lease))
            self.model.expire(lease.account, lease.id)

    @rule(account=accounts)
    def time_passes_for_the_delayed(self, account: str | None) -> None:
        """Everything delayed of the account is due, and somebody looks."""
        raw = token_of(account)
        key = f"{self.root}:delayed:{raw}"
        for member in self.client.zrange(key, 0, -1):
            self.client.zadd(key, {member: 1})
        if self.client.exists(key):
            state = state_of(self.client, self.root, raw.encode())
            state[DUE] = 1
            set_state(self.client, self.root, raw.encode(), state)
            self.client.zadd(f"{self.root}:timers", {raw: 1}, xx=True)
        for held in self.queues[account].at("delayed"):
            held.place = "waiting"
        # A queue that is full or ready is looked at when its turn comes; the model looks now.
        self.broker.queues_admin.check(LANE)

    @rule(account=named, worker=workers)
    def time_passes_for_the_backoff(self, account: str, worker: str) -> None:
        """The account's retries may run, and somebody who comes for messages finds that out."""
        raw = token_of(account)
        for held in self.queues[account].in_backoff():
            score, _, rest = self.client.hget(f"{self.root}:entries:{raw}", held.id).split(b":", 2)
            self.client.hset(f"{self.root}:entries:{raw}", held.id, b"%s:1:%s" % (score, rest))
        if self.client.exists(f"{self.root}:state:{raw}"):
            state = state_of(self.client, self.root, raw.encode())
            state[HOLD] = min(state[HOLD], 1)
            set_state(self.client, self.root, raw.encode(), state)
            self.client.zadd(f"{self.root}:timers", {raw: 1}, xx=True)
        self.queues[account].time_passes_for_backoff()
        self.claim_one(worker)

    @precondition(lambda self: any("an hour" in self.model.pauses(account) for account in ACCOUNTS))
    @rule(account=accounts, worker=workers)
    def time_passes_for_pauses(self, account: str | None, worker: str) -> None:
        """Those of the account and of its queue are over, or the lane's; and somebody comes for messages."""
        if account is None:
            if (stored := self.client.get(self.root)) is not None:
                state = list(LANE_STATE.unpack(stored))
                state[LANE_PAUSED] = min(state[LANE_PAUSED], 1)
                self.client.set(self.root, LANE_STATE.pack(*state))
        else:
            raw = token_of(account)
            for root in (self.root, *(hand.root for hand in self.hands_elsewhere.values())):
                if (stored := self.client.hget(f"{root}:limits", raw)) is not None:
                    fields = stored.split(b":")
                    fields[PAUSES] = [b"%d" % min(int(each), 1) for each in fields[PAUSES]]
                    self.client.hset(f"{root}:limits", raw, b":".join(fields))
                self.client.zadd(f"{root}:timers", {raw: 1}, xx=True)
            if self.model.account_paused[account] == "an hour":
                self.client.zadd(self.broker.keys.paused_accounts, {raw: 1}, xx=True)
        self.model.time_passes_for_pauses(account)
        self.claim_one(worker)

    def claim_one(self, worker: str) -> list[Lease]:
        claimed = self.hands[worker].claim(1)
        self.took(worker, claimed, 1)
        return claimed

    @rule(account=accounts, which=indexes)
    def remove(self, account: str | None, which: int) -> None:
        ids = [*self.queues[account].entries, "unknown"]
        entry_id = ids[which % len(ids)]
        held = self.queues[account].entries.get(entry_id)
        expected = [held.id] if held is not None and held.place != "leased" else []
        assert self.broker.queues_admin.remove(LANE, account, [entry_id]) == expected
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
        max_waiting=st.sampled_from([None, 1, 2, 4]),
        weight=st.sampled_from([1, 7, 100]),
        rated=st.booleans(),
        strict=st.booleans(),
    )
    def limit(
        self,
        account: str,
        concurrency: int,
        max_deliveries: int | None,
        max_waiting: int | None,
        weight: int,
        rated: bool,
        strict: bool,
    ) -> None:
        queue = self.queues[account]
        queue.concurrency = 1 if strict else concurrency
        queue.max_deliveries = max_deliveries
        queue.max_waiting = max_waiting
        queue.rated = rated
        queue.set_strict(strict)
        limits = QueueLimits(
            weight=weight,
            concurrency=queue.concurrency,
            max_deliveries=max_deliveries,
            max_waiting=max_waiting,
            rate=Rate(STARTS, 3600.0 * STARTS) if rated else None,
            ordering="strict" if strict else "relaxed",
        )
        self.broker.queues_admin.set_limits(LANE, account, limits)

    @rule(account=named, paused=pauses)
    def pause(self, account: str, paused: Pause) -> None:
        admin = self.broker.queues_admin
        if paused == "no":
            admin.resume(LANE, account)
        else:
            admin.pause(LANE, account, ends_at(paused))
        self.queues[account].paused = paused

    @rule(account=named, paused=pauses)
    def pause_account(self, account: str, paused: Pause) -> None:
        admin = self.other.queues_admin
        if paused == "no":
            admin.resume_account(account)
        else:
            admin.pause_account(account, ends_at(paused))
        self.model.account_paused[account] = paused

    @rule(lane=st.sampled_from(LATER_LANES), by_another=st.booleans())
    def work_elsewhere(self, lane: str, by_another: bool) -> None:
        """Every account sends to another lane, and what waits there is run in its order; of paused accounts nothing."""
        self.sequence += 1
        entries = [Entry(message(each, lane), f"{self.sequence}", sequence=self.sequence) for each in ACCOUNTS]
        assert (self.other if by_another else self.broker).enqueue_many(entries) == len(entries)
        for account, entry in zip(ACCOUNTS, entries, strict=True):
            self.model.elsewhere.setdefault(lane, {}).setdefault(account, []).append(entry.id)
        hand, ran = self.hands_elsewhere[lane], dict[str | None, list[str]]()
        claimed = hand.claim(1)
        while claimed:
            ran.setdefault(claimed[0].account, []).append(claimed[0].id)
            claimed = hand.settle(claimed[0], chain=True)
        assert ran == self.model.startable_elsewhere(lane)
        for account in ran:
            self.model.elsewhere[lane][account] = []

    @rule(most=st.sampled_from([None, 1, 3]))
    def limit_lane(self, most: int | None) -> None:
        self.broker.queues_admin.set_lane_limits(LANE, most)
        self.model.global_concurrency = most

    @rule(dry_run=st.booleans())
    def reap(self, dry_run: bool) -> None:
        before = [account for account, queue in self.queues.items() if not queue.entries]
        reaped = [account for lane, account in self.broker.queues_admin.reap(0, dry_run=dry_run) if lane == LANE]
        assert set(reaped) <= set(before)
        for account in reaped:
            queue = self.queues[account]
            assert not (queue.rated and queue.starts), "its starts are forgotten"
            if not dry_run:
                queue.starts = 0

    @rule(paused=pauses)
    def pause_lane(self, paused: Pause) -> None:
        admin = self.broker.queues_admin
        if paused == "no":
            admin.resume(LANE)
        else:
            admin.pause(LANE, until=ends_at(paused))
        self.model.lane_paused = paused

    # -- what must be

    def took(self, worker: str, claimed: list[Lease], number: int) -> None:
        for lease in claimed:
            queue = self.queues[lease.account]
            first = queue.at("waiting")[0]
            assert lease.id == first.id
            assert not self.model.pauses(lease.account)
            assert not queue.in_backoff()
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
            if self.model.global_concurrency is not None:
                assert len(self.leases) <= self.model.global_concurrency
        assert len(claimed) <= number
        if len(claimed) < number and number > 0:
            assert not self.model.startable()

    def take_back_start(self, lease: Lease) -> None:
        """A message that was never started gives its start back."""
        queue = self.queues[lease.account]
        if (lease.account, lease.slot, lease.epoch) in self.started and queue.rated:
            queue.starts -= 1

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
            holding = self.model.pauses(account)
            if described:
                assert described.paused == bool(holding)
                assert (described.paused_until is None) == (not holding or "for good" in holding)
            for position in range(3):
                sums[position] += expected[position]
            held = admin.contains(LANE, account, [f"{number}" for number in range(6)])
            assert held == set(queue.entries)
        assert (totals.waiting, totals.delayed, totals.active) == tuple(sums)
        assert totals.ready == len(self.model.ready())
        assert totals.buried == self.model.buried

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
            max_examples=60,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
