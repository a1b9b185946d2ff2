"""Limits act on what waits already, in the scripts; fairness is by seconds used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tenants.queues import InvalidEntry, QueueFull, QueueLimits, Rate, TenantBroker
from tests.tenants.queues.conftest import PATIENCE_MS, eventually
from tests.tenants.queues.lanes import LANE, VIRTUAL_START, Client, Hand, Lease, age_lease, clock_of, entry, state_of

DEFAULT = QueueLimits()


def ids(leases: list[Lease]) -> list[str]:
    return [each.id for each in leases]


def standing(broker: TenantBroker, account: str = "acme") -> str | None:
    described = broker.queues_admin.describe(LANE, account)
    return described.standing if described else None


def test_a_higher_concurrency_acts_on_the_backlog(broker: TenantBroker) -> None:
    broker.enqueue_many([entry(str(number)) for number in range(4)])
    hand = Hand(broker)
    assert ids(hand.claim(10)) == ["0"]
    assert standing(broker) == "full"
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(concurrency=3))
    assert ids(hand.claim(10)) == ["1", "2"]
    broker.queues_admin.set_limits(LANE, "acme", DEFAULT)
    assert hand.claim(10) == []


def test_a_rate_counts_starts_and_says_when_to_poll_again(broker: TenantBroker, client: Client) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(concurrency=10, rate=Rate(2, 60)))
    broker.enqueue_many([entry(str(number)) for number in range(4)])
    hand = Hand(broker)
    claimed_after = datetime.now(UTC).timestamp() * 1000
    first = hand.claim(10)
    claimed_before = datetime.now(UTC).timestamp() * 1000
    assert ids(first) == ["0", "1"]
    assert standing(broker) == "timed"
    assert hand.next_ms <= 15_000  # the leases end before the bucket has its next token
    score = client.zscore(f"{broker.keys.root(LANE)}:timers", "@acme")
    assert score is not None
    assert 30_000 - 1 <= score - claimed_after <= 30_000 + 1 + (claimed_before - claimed_after)
    hand.give_back(first[1])
    assert ids(hand.claim(10)) == ["1"]  # its token went back with it
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(concurrency=10))
    assert ids(hand.claim(10)) == ["2", "3"]


@pytest.mark.parametrize("many", [350, 1000])
def test_max_waiting_takes_all_or_nothing_of_each_queue_in_a_batch(broker: TenantBroker, many: int) -> None:
    """More than one script adds, and others' entries stand between the queue's own."""
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_waiting=many - 1))
    batch = [entry(f"{number}", account) for number in range(many) for account in ("acme", f"other {number % 30}")]
    with pytest.raises(QueueFull) as caught:
        broker.enqueue_many(batch)
    assert (caught.value.lane, caught.value.account, caught.value.max_waiting) == (LANE, "acme", many - 1)
    assert broker.queues_admin.describe(LANE, "acme").waiting == 0  # type: ignore[union-attr]
    assert broker.queues_admin.totals(LANE).waiting == many
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_waiting=many))
    assert broker.enqueue_many(batch) == many
    held = next(page for page in broker.queues_admin.entries(LANE) if page.account == "acme")
    assert list(held.ids[:5]) == ["0", "1", "2", "3", "4"]


def test_many_senders_at_one_time_never_exceed_max_waiting(
    broker: TenantBroker, make_broker: Callable[..., TenantBroker]
) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_waiting=50))
    gate, refused = threading.Barrier(4), []

    def send(name: str, own: TenantBroker) -> None:
        gate.wait(PATIENCE_MS / 1000)
        for number in range(40):
            try:
                own.enqueue_once(entry(f"{name} {number}"))
            except QueueFull:
                refused.append(name)

    threads = [threading.Thread(target=send, args=(str(n), make_broker())) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_MS / 1000)
    assert broker.queues_admin.totals(LANE).waiting == 50
    assert len(refused) == 4 * 40 - 50


@pytest.mark.parametrize("scope", ["queue", "account", "lane"])
def test_a_pause_holds_until_resumed(broker: TenantBroker, scope: str) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    broker.enqueue_many([entry("1"), entry("2", "other")])
    if scope == "queue":
        admin.pause(LANE, "acme")
    elif scope == "account":
        admin.pause_account("acme")
    else:
        admin.pause(LANE)
    leases = hand.claim(10)
    assert ids(leases) == ([] if scope == "lane" else ["2"])
    assert hand.left == 0
    described = admin.describe(LANE, "acme")
    assert described is not None
    assert described.paused
    assert described.paused_until is None
    if scope == "queue":
        admin.resume(LANE, "acme")
    elif scope == "account":
        admin.resume_account("acme")
    else:
        admin.resume(LANE)
    assert "1" in ids(hand.claim(10))


@pytest.mark.parametrize("scope", ["queue", "account", "lane"])
def test_a_pause_until_a_time_ends_by_itself(broker: TenantBroker, scope: str) -> None:
    broker.enqueue_once(entry("1"))
    hand = Hand(broker)

    def pause(span: timedelta) -> None:
        until = datetime.now(UTC) + span
        if scope == "account":
            broker.queues_admin.pause_account("acme", until)
        else:
            broker.queues_admin.pause(LANE, "acme" if scope == "queue" else None, until)

    pause(timedelta(hours=1))
    assert hand.claim() == []
    assert 3_500_000 <= hand.next_ms <= 3_600_001
    described = broker.queues_admin.describe(LANE, "acme")
    assert described is not None
    assert described.paused_until is not None
    pause(timedelta(milliseconds=250))
    eventually(lambda: ids(hand.claim()) == ["1"])


def test_a_pause_of_an_account_holds_on_lanes_that_come_later(
    broker: TenantBroker, make_broker: Callable[..., TenantBroker], client: Client
) -> None:
    admin = broker.queues_admin
    admin.pause_account("acme")
    admin.pause_account("later", until=datetime.now(UTC) + timedelta(hours=1))
    admin.pause_account("free")
    admin.resume_account("free")
    # Whoever puts the lane to its first use is another process, which knows nothing of it.
    make_broker().enqueue_many([entry("1", account) for account in ("acme", "later", "free")])
    hand = Hand(broker)
    assert [each.account for each in hand.claim(10)] == ["free"]
    make_broker().queues_admin.set_limits("generate", "acme", QueueLimits(weight=2))
    broker.enqueue_once(entry("1", "acme", "generate"))
    assert Hand(broker, lane="generate").claim(10) == []
    admin.resume_account("acme")
    assert [each.account for each in hand.claim(10)] == ["acme"]
    assert [each.account for each in Hand(broker, lane="generate").claim(10)] == ["acme"]
    admin.resume_account("later")
    assert not client.exists(broker.keys.paused_accounts)


def test_pauses_and_first_uses_of_lanes_at_one_time_come_out_right(
    broker: TenantBroker, make_broker: Callable[..., TenantBroker]
) -> None:
    brokers = [make_broker() for _ in range(3)]
    for round_number in range(25):
        gate, lane = threading.Barrier(3), f"lane-{round_number}"
        acts: list[Callable[[], object]] = [
            lambda lane=lane: brokers[0].enqueue_once(entry("1", "paused", lane)),  # type: ignore[misc]
            lambda: brokers[1].queues_admin.pause_account("paused"),
            lambda: brokers[2].queues_admin.resume_account("resumed"),
        ]
        broker.queues_admin.resume_account("paused")
        broker.queues_admin.pause_account("resumed")

        def run(act: Callable[[], object], gate: threading.Barrier = gate) -> None:
            gate.wait(PATIENCE_MS / 1000)
            act()

        threads = [threading.Thread(target=run, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_MS / 1000)
        broker.enqueue_once(entry("1", "resumed", lane))
        assert [each.account for each in Hand(broker, lane=lane).claim(10)] == ["resumed"]


def test_resuming_a_queue_does_not_resume_its_account(broker: TenantBroker) -> None:
    admin = broker.queues_admin
    broker.enqueue_once(entry("1"))
    admin.pause_account("acme")
    admin.pause(LANE, "acme")
    admin.resume(LANE, "acme")
    assert Hand(broker).claim() == []
    admin.resume_account("acme")
    assert ids(Hand(broker).claim()) == ["1"]


def test_many_queues_are_paused_in_one_call(broker: TenantBroker) -> None:
    accounts = [f"a{number}" for number in range(700)]
    broker.enqueue_many([entry("1", account) for account in accounts])
    broker.queues_admin.pause_many(LANE, accounts[:699])
    assert [each.account for each in Hand(broker).claim(10)] == ["a699"]
    broker.queues_admin.resume_many(LANE, accounts)
    assert len(Hand(broker).claim(100)) == 100


def test_max_waiting_refuses_whole_calls(broker: TenantBroker) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_waiting=2))
    broker.enqueue_once(entry("1"))
    with pytest.raises(QueueFull) as caught:
        broker.enqueue_many([entry("2"), entry("3", delay_seconds=60), entry("4", "other")])
    assert (caught.value.account, caught.value.max_waiting) == ("acme", 2)
    assert broker.queues_admin.totals(LANE).waiting == 1
    # An id that is held takes no room, nor does one that is named twice.
    assert broker.enqueue_many([entry("1"), entry("2"), entry("2")]) == 1
    with pytest.raises(QueueFull):
        broker.enqueue(entry("5").message)
    Hand(broker).claim_one()
    assert broker.enqueue_once(entry("3"))


def test_a_lane_runs_no_more_than_its_global_concurrency(broker: TenantBroker) -> None:
    broker.enqueue_many([entry(str(number), f"a{number}") for number in range(4)])
    broker.queues_admin.set_lane_limits(LANE, 2)
    hand = Hand(broker)
    leases = hand.claim(10)
    assert len(leases) == 2
    assert hand.left == 0  # no worker is woken for messages that cannot start
    assert len(hand.settle(leases[0], chain=True)) == 1
    broker.queues_admin.set_lane_limits(LANE, None)
    assert len(hand.claim(10)) == 1


def test_strict_ordering_holds_the_queue_during_backoff(broker: TenantBroker) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(ordering="strict"))
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    assert hand.settle(hand.claim_one(), "retry", delay_ms=60, chain=True) == []
    assert 0 < hand.next_ms <= 60
    eventually(lambda: hand.claim() != [] or hand.left > 0)
    held = broker.queues_admin.describe(LANE, "acme")
    assert held is not None
    assert (held.active, held.waiting) == (1, 1)


def test_strict_ordering_lets_go_at_the_dead_letter(broker: TenantBroker) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(ordering="strict"))
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    assert ids(hand.settle(hand.claim_one(), "bury", chain=True)) == ["2"]


@pytest.mark.parametrize("verb", ["remove", "purge"])
def test_strict_ordering_lets_go_when_the_retry_is_removed(broker: TenantBroker, verb: str) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(ordering="strict"))
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    hand.settle(hand.claim_one(), "retry", delay_ms=3_600_000)
    broker.queues_admin.remove(LANE, "acme", ["2"])
    broker.enqueue_once(entry("3"))
    assert hand.claim() == []
    if verb == "remove":
        assert broker.queues_admin.remove(LANE, "acme", ["1"]) == ["1"]
    else:
        assert broker.queues_admin.purge(LANE, "acme") == ["1", "3"]
        broker.enqueue_once(entry("3"))
    assert ids(hand.claim()) == ["3"]


def test_strict_ordering_lets_go_when_no_retry_of_the_queue_is_left(broker: TenantBroker) -> None:
    """Messages that ran side by side until the limits were changed may all be retries, or end otherwise."""
    admin, hand = broker.queues_admin, Hand(broker)
    admin.set_limits(LANE, "acme", QueueLimits(concurrency=3))
    broker.enqueue_many([entry(str(number)) for number in range(4)])
    first, second, third = hand.claim(10)
    admin.set_limits(LANE, "acme", QueueLimits(ordering="strict"))
    hand.settle(first, "retry", delay_ms=7_200_000)
    hand.settle(second, "retry", delay_ms=3_600_000)
    hand.settle(third, "bury")
    assert hand.claim() == []
    admin.remove(LANE, "acme", ["0"])
    assert hand.claim() == []
    admin.remove(LANE, "acme", ["1"])
    assert ids(hand.claim()) == ["3"]


def test_relaxed_ordering_goes_on_during_backoff(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2")])
    hand = Hand(broker)
    assert ids(hand.settle(hand.claim_one(), "retry", delay_ms=60_000, chain=True)) == ["2"]


def test_settings_outlive_the_reaper_and_default_ones_take_no_space(broker: TenantBroker, client: Client) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    admin.set_limits(LANE, "acme", QueueLimits(weight=3))
    broker.enqueue_once(entry("1"))
    hand.settle(hand.claim_one())
    assert admin.reap(0) == [(LANE, "acme")]
    described = admin.describe(LANE, "acme")
    assert described is not None
    assert (described.standing, described.limits.weight) == ("absent", 3)
    admin.set_limits(LANE, "acme", DEFAULT)
    assert admin.describe(LANE, "acme") is None
    assert not client.exists(f"{broker.keys.root(LANE)}:limits")


def test_a_backlog_does_not_delay_others(broker: TenantBroker) -> None:
    broker.enqueue_many([entry(str(number), "noisy") for number in range(500)])
    hand = Hand(broker)
    lease = hand.claim_one()
    broker.enqueue_many([entry("q", f"quiet{number}") for number in range(20)])
    served: list[str | None] = []
    for _ in range(25):
        (lease,) = hand.settle(lease, chain=True)
        served.append(lease.account)
    assert len({each for each in served if each != "noisy"}) == 20


def test_weights_share_the_seconds(broker: TenantBroker, client: Client) -> None:
    broker.queues_admin.set_limits(LANE, "heavy", QueueLimits(weight=3, concurrency=50))
    broker.queues_admin.set_limits(LANE, "light", QueueLimits(concurrency=50))
    broker.enqueue_many([entry(str(n), account) for n in range(50) for account in ("heavy", "light")])
    claimed = Hand(broker).claim(40)
    heavy = sum(each.account == "heavy" for each in claimed)
    assert 28 <= heavy <= 32


def test_a_weight_acts_on_the_backlog(broker: TenantBroker) -> None:
    for account in ("one", "other"):
        broker.queues_admin.set_limits(LANE, account, QueueLimits(concurrency=100))
    broker.enqueue_many([entry(str(n), account) for n in range(60) for account in ("one", "other")])
    hand = Hand(broker)
    assert 9 <= sum(each.account == "one" for each in hand.claim(20)) <= 11
    broker.queues_admin.set_limits(LANE, "one", QueueLimits(concurrency=100, weight=4))
    assert 31 <= sum(each.account == "one" for each in hand.claim(40)) <= 33


def test_who_was_away_has_saved_up_nothing(broker: TenantBroker, client: Client) -> None:
    hand = Hand(broker)
    broker.enqueue_many([entry("0", "away")] + [entry(str(n), "there") for n in range(60)])
    away, there = sorted(hand.claim(2), key=lambda lease: lease.account or "")
    hand.settle(away)
    for _ in range(30):  # half a minute, which the other one spends away
        age_lease(client, broker, there, 1)
        (there,) = hand.settle(there, chain=True)
    broker.enqueue_many([entry(str(n), "away") for n in range(1, 21)])
    served = []
    lease = there
    for _ in range(12):
        age_lease(client, broker, lease, 1)
        (lease,) = hand.settle(lease, chain=True)
        served.append(lease.account)
    assert 5 <= served.count("away") <= 8


def test_who_used_more_seconds_waits_longer(broker: TenantBroker, client: Client) -> None:
    hand = Hand(broker)
    broker.enqueue_many([entry("1", "slow"), entry("1", "quick")])
    slow, quick = sorted(hand.claim(2), key=lambda lease: lease.account != "slow")
    hand.settle(quick)
    age_lease(client, broker, slow, 5)
    hand.settle(slow)
    # Both have work again; the one that used five seconds comes after many of the other's short ones.
    broker.enqueue_many([entry(str(n), account) for n in range(2, 12) for account in ("slow", "quick")])
    served = []
    (lease,) = hand.claim()
    for _ in range(8):
        served.append(lease.account)
        (lease,) = hand.settle(lease, chain=True)
    assert served == ["quick"] * 8


def test_debt_is_capped(broker: TenantBroker, client: Client) -> None:
    root = broker.keys.root(LANE)
    hand = Hand(broker)
    broker.enqueue_once(entry("1"))
    lease = hand.claim_one()
    age_lease(client, broker, lease, 3600)
    hand.settle(lease)
    start, clock = state_of(client, root, b"@acme")[VIRTUAL_START], clock_of(client, root)
    assert start - clock <= 60_000_000


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0},
        {"weight": 101},
        {"concurrency": 0},
        {"max_waiting": 0},
        {"max_deliveries": -1},
        {"ordering": "none"},
        {"ordering": "strict", "concurrency": 2},
    ],
)
def test_limits_say_what_is_wrong(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidEntry, match=next(iter(fields))):
        QueueLimits(**fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidEntry, match="rate"):
        Rate(0, 1)


def test_the_reaper_forgets_no_start_that_a_rate_has_counted(broker: TenantBroker, client: Client) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    admin.set_limits(LANE, "acme", QueueLimits(rate=Rate(1, 86400 * 7)))
    broker.enqueue_once(entry("1"))
    hand.settle(hand.claim_one())
    assert admin.reap(0) == []
    broker.enqueue_once(entry("2"))
    assert hand.claim() == []  # the week's one start has been used
    admin.purge(LANE, "acme")
    admin.set_limits(LANE, "acme", DEFAULT)
    assert admin.reap(0) == [(LANE, "acme")]
