"""Looking at tenant queues, removing from them, reaping them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tenants.queues import InvalidEntry, QueueLimits, Rate, TenantBroker
from tests.tenants.queues.lanes import LANE, Client, Hand, age_lease, entry, set_state, state_of

#: Of a tenant queue's state.
LAST_USED = 4


def test_describe_shows_what_a_queue_holds(broker: TenantBroker) -> None:
    admin = broker.queues_admin
    assert admin.describe(LANE, "acme") is None
    broker.enqueue_many([entry("1"), entry("2"), entry("3", delay_seconds=60)])
    Hand(broker).claim_one()
    described = admin.describe(LANE, "acme")
    assert described is not None
    assert (described.waiting, described.delayed, described.active) == (1, 1, 1)
    assert described.queue == "publish_acme"
    assert described.oldest_wait is not None
    assert 0 <= described.oldest_wait < 5
    assert not described.paused
    totals = admin.totals(LANE)
    assert (totals.waiting, totals.delayed, totals.active, totals.ready, totals.queues) == (1, 1, 1, 0, 1)
    assert totals.oldest_wait is not None


def test_lists_page_through_every_queue_once(broker: TenantBroker) -> None:
    accounts = [f"a{number:03}" for number in range(120)]
    broker.enqueue_many([entry("1", account) for account in accounts])
    broker.enqueue_once(entry("1", "acme", "generate"))
    seen: list[tuple[str, str | None]] = []
    cursor: str | None = None
    while True:
        page, cursor = broker.queues_admin.list_queues(cursor=cursor, limit=50)
        seen += [(each.lane, each.account) for each in page]
        broker.enqueue_once(entry("1", f"a{len(seen):03}-new"))  # what is added later disturbs nothing
        if cursor is None:
            break
    assert set(seen) >= {(LANE, account) for account in accounts} | {("generate", "acme")}
    assert len(seen) == len(set(seen))
    only, _ = broker.queues_admin.list_queues(account="acme")
    assert [(each.lane, each.account) for each in only] == [("generate", "acme")]
    with pytest.raises(InvalidEntry, match="cursor"):
        broker.queues_admin.list_queues(cursor="not ours")


def test_lists_select_queues_by_how_long_they_were_unused(broker: TenantBroker, client: Client) -> None:
    hand = Hand(broker)
    broker.enqueue_many([entry("1", account) for account in ("old", "new")])
    for lease in hand.claim(2):
        hand.settle(lease)
    raw = b"@old"
    state = state_of(client, hand.root, raw)
    state[LAST_USED] -= 2 * 3600 * 1000
    set_state(client, hand.root, raw, state)

    def idle(seconds: float, account: str | None = None) -> list[str | None]:
        page, _ = broker.queues_admin.list_queues(LANE, account=account, idle_longer_than=seconds)
        return [each.account for each in page]

    assert idle(3600) == ["old"]
    assert idle(3600, account="new") == []
    assert idle(3600, account="old") == ["old"]
    assert idle(0) == ["new", "old"]
    assert idle(3 * 3600) == []


def test_position_counts_who_comes_first(broker: TenantBroker) -> None:
    broker.enqueue_many([entry("1"), entry("2"), entry("3", priority=0), entry("4", delay_seconds=60)])
    positions = [broker.queues_admin.position(LANE, "acme", each) for each in ("3", "1", "2", "4", "5")]
    assert positions == [0, 1, 2, None, None]


def test_remove_and_purge_leave_what_runs(broker: TenantBroker) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    broker.enqueue_many([entry(str(number)) for number in range(5)] + [entry("d", delay_seconds=60)])
    lease = hand.claim_one()
    assert admin.remove(LANE, "acme", ["0", "1", "d", "unknown"]) == ["1", "d"]
    assert admin.purge(LANE, "acme") == ["2", "3", "4"]
    assert not admin.delete(LANE, "acme")
    hand.settle(lease)
    assert hand.settled
    assert admin.delete(LANE, "acme")
    assert admin.describe(LANE, "acme") is None


def test_purge_of_a_long_queue(broker: TenantBroker) -> None:
    broker.enqueue_many([entry(str(number)) for number in range(1203)])
    assert len(broker.queues_admin.purge(LANE, "acme")) == 1203
    assert broker.queues_admin.totals(LANE).waiting == 0


def test_the_reaper_leaves_nothing_of_idle_queues_and_touches_no_other(broker: TenantBroker, client: Client) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    broker.enqueue_once(entry("0", "busy"))
    hand.claim_one()
    before = key_space(client)
    idle = [f"idle{number}" for number in range(30)]
    broker.enqueue_many([entry(str(number), account) for account in idle for number in range(12)])
    for _ in range(12):
        for lease in hand.claim(30):
            age_lease(client, broker, lease, 0.05)  # so much that the hour's account shows it
            hand.settle(lease)
    broker.enqueue_once(entry("1", "later", delay_seconds=3600))
    assert admin.reap(3600) == []
    assert sorted(admin.reap(0, dry_run=True)) == sorted((LANE, account) for account in idle)
    assert len(admin.reap(0, limit=10)) == 10
    assert len(admin.reap(0)) == 20
    assert admin.remove(LANE, "later", ["1"]) == ["1"]
    assert admin.reap(0) == [(LANE, "later")]
    assert key_space(client) == before
    broker.enqueue_once(entry("1", "idle0"))
    assert [each.account for each in hand.claim()] == ["idle0"]


def key_space(client: Client) -> dict[bytes, object]:
    """Every key and its members; of the lane's clocks and of what expires, only that they are there."""
    found: dict[bytes, object] = {}
    for key in sorted(client.keys()):
        kind = client.type(key)
        if kind == b"zset":
            found[key] = sorted(client.zrange(key, 0, -1))
        elif kind == b"hash":
            found[key] = sorted(field for field in client.hkeys(key) if not field.startswith(b"r"))
        else:
            found[key] = kind
    for lane_wide in (b"onelane:2:{publish}", b"onelane:2:{publish}:bell"):
        found.pop(lane_wide, None)
    return {key: value for key, value in found.items() if value != []}


def test_the_reaper_leaves_what_owes_starts(broker: TenantBroker) -> None:
    """With its state a queue's rate would be forgotten. A dry run returns what a real one does."""
    admin, hand = broker.queues_admin, Hand(broker)
    admin.set_limits(LANE, "limited", QueueLimits(rate=Rate(1, 3600)))
    broker.enqueue_many([entry("1", "limited"), entry("1", "free")])
    for lease in hand.claim(2):
        hand.settle(lease)
    assert admin.reap(0, dry_run=True) == [(LANE, "free")]
    assert admin.reap(0) == [(LANE, "free")]
    assert admin.describe(LANE, "limited") is not None


def test_the_reaper_never_takes_a_message(broker: TenantBroker, make_broker: Callable[..., TenantBroker]) -> None:
    admin = make_broker().queues_admin
    stop = threading.Event()

    def reap() -> None:
        while not stop.is_set():
            admin.reap(0)

    thread = threading.Thread(target=reap)
    thread.start()
    hand, done = Hand(broker), []
    for number in range(300):
        broker.enqueue_once(entry(str(number)))
        lease = hand.claim_one()
        hand.settle(lease)
        done.append(lease.id)
    stop.set()
    thread.join()
    assert done == [str(number) for number in range(300)]


def test_the_heaviest_accounts_by_name(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_many([entry(str(number), "noisy") for number in range(13)] + [entry("1", "quiet")])
    hand = Hand(broker)
    for lease, seconds in zip(hand.claim(2), (30, 2), strict=True):
        age_lease(client, broker, lease, seconds)
        hand.settle(lease)
    assert broker.queues_admin.heaviest(LANE, "backlog") == [("noisy", 12.0)]
    broker.enqueue_many([entry(str(number), account) for account, n in (("b", 3), ("a", 5)) for number in range(n)])
    assert broker.queues_admin.heaviest(LANE, "backlog") == [("noisy", 12.0), ("a", 5.0), ("b", 3.0)]
    assert broker.queues_admin.heaviest(LANE, "backlog", number=2) == [("noisy", 12.0), ("a", 5.0)]
    (first, most), (second, less) = broker.queues_admin.heaviest(LANE)
    assert (first, second) == ("noisy", "quiet")
    assert 30 <= most < 31
    assert 2 <= less < 3


def test_the_loads_of_a_lane_have_both_figures_and_their_share(
    broker: TenantBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.queues.queue_loads.LISTED_AT_ONCE", 1)  # several pages of the hour's accounts
    broker.enqueue_many([entry(str(number), "noisy") for number in range(4)] + [entry("1", "quiet")])
    hand = Hand(broker)
    for lease, seconds in zip(hand.claim(2), (30, 10), strict=True):
        age_lease(client, broker, lease, seconds)
        hand.settle(lease)
    first, second = broker.queues_admin.loads(LANE)
    assert (first.account, first.waiting, round(first.seconds), round(first.share, 2)) == ("noisy", 3, 30, 0.75)
    assert (second.account, second.waiting, round(second.seconds), round(second.share, 2)) == ("quiet", 0, 10, 0.25)
    (only,) = broker.queues_admin.loads(LANE, "backlog")
    assert (only.account, only.waiting, round(only.seconds), only.share) == ("noisy", 3, 30, 1.0)
    assert broker.queues_admin.loads("other") == []


def test_an_idle_account_takes_less_than_a_kibibyte(broker: TenantBroker, client: Client) -> None:
    hand = Hand(broker, lease_ms=600_000)

    def use(accounts: list[str]) -> None:
        broker.enqueue_many([entry("1", account) for account in accounts])
        for lease in hand.claim(len(accounts)):
            hand.settle(lease)

    use(["first"])
    before = int(client.info("memory")["used_memory"])
    use([f"account-{number:04}" for number in range(2000)])
    assert (int(client.info("memory")["used_memory"]) - before) / 2000 < 1024


def test_the_generation_is_lost_with_the_data(broker: TenantBroker, client: Client) -> None:
    admin = broker.queues_admin
    assert admin.generation() is None
    admin.set_generation(7)
    assert admin.generation() == 7
    client.flushall()
    assert admin.generation() is None


def test_dwell_time_runs_from_arrival_to_start(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_many([entry("1"), entry("2", "other"), entry("later", delay_seconds=60)])
    key = f"{broker.keys.root(LANE)}:entries:@acme"
    score, added, rest = client.hget(key, "1").split(b":", 2)
    client.hset(key, "1", b"%s:%d:%s" % (score, int(added) - 5000, rest))
    hand = Hand(broker)
    leases = hand.claim(2)
    totals = broker.queues_admin.totals(LANE)
    assert totals.started == 2
    assert 5 <= totals.dwelt_seconds < 10
    hand.settle(leases[0], "retry")
    hand.claim(1)
    assert broker.queues_admin.totals(LANE).started == 3


def test_the_heaviest_are_kept_in_bounded_space(broker: TenantBroker, client: Client) -> None:
    """Only accounts with a backlog of ten or more stand in the list by backlog; the hours' lists end by themselves."""
    broker.enqueue_many(entry("1", f"light{number}") for number in range(1001))
    broker.enqueue_many(entry(str(n), account) for account, count in (("a", 30), ("b", 12)) for n in range(count))
    assert broker.queues_admin.heaviest(LANE, "backlog") == [("a", 30.0), ("b", 12.0)]
    assert client.zcard(f"{broker.keys.root(LANE)}:backlog") == 2
    broker.queues_admin.purge(LANE, "a")
    assert broker.queues_admin.heaviest(LANE, "backlog") == [("b", 12.0)]
    hand = Hand(broker)
    (lease,) = hand.claim(1)
    age_lease(client, broker, lease, 3)
    hand.settle(lease)
    (hours,) = list(client.scan_iter("*:spent:*"))
    assert 3600 < client.ttl(hours) <= 7500


def test_many_queues_are_purged_in_one_call(broker: TenantBroker) -> None:
    accounts = [f"a{number}" for number in range(700)]
    broker.enqueue_many(entry(str(n), account) for account in accounts for n in range(2))
    broker.enqueue_many(entry(str(n), "long") for n in range(1300))
    broker.enqueue_once(entry("kept", "kept"))
    (running,) = Hand(broker).claim(1)
    removed = broker.queues_admin.purge_many(LANE, [*accounts, "long", "nobody"])
    assert sum(map(len, removed.values())) == 700 * 2 + 1300 - 1
    assert removed[running.account] == ["1"]
    assert removed["nobody"] == []
    totals = broker.queues_admin.totals(LANE)
    assert (totals.waiting, totals.active, totals.ready) == (1, 1, 1)
    assert broker.queues_admin.check(LANE) == []


def codes(broker: TenantBroker, entry_id: str) -> list[str]:
    return [each.code for each in broker.queues_admin.explain(LANE, "acme", entry_id)]


def test_every_reason_why_a_message_waits(broker: TenantBroker) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    broker.enqueue_many([entry("1"), entry("2"), entry("late", delay_seconds=60)])
    assert codes(broker, "unknown") == []
    (late,) = admin.explain(LANE, "acme", "late")
    assert late.code == "delayed"
    assert late.until is not None
    assert codes(broker, "1") == []  # it is next, and nothing is in its way
    (behind,) = admin.explain(LANE, "acme", "2")
    assert (behind.code, behind.count) == ("behind_other_messages", 1)
    lease = hand.claim_one()
    assert codes(broker, "1") == []  # it runs
    assert codes(broker, "2") == ["at_concurrency"]
    admin.pause(LANE, "acme")
    admin.pause(LANE)
    assert codes(broker, "2") == ["lane_paused", "queue_paused", "at_concurrency"]
    admin.resume(LANE)
    admin.pause_account("acme", until=datetime.now(UTC) + timedelta(hours=1))
    for_good, for_an_hour, _ = admin.explain(LANE, "acme", "2")
    assert (for_good.code, for_good.until) == ("queue_paused", None)
    assert for_an_hour.code == "account_paused"
    assert for_an_hour.until is not None
    assert codes(broker, "late") == ["delayed", "queue_paused", "account_paused"]
    admin.resume(LANE, "acme")
    admin.pause_account("acme", until=datetime.now(UTC) + timedelta(seconds=10))
    assert codes(broker, "late") == ["delayed"]  # the pause ends before its time comes
    admin.resume_account("acme")
    admin.set_lane_limits(LANE, 1)
    assert codes(broker, "2") == ["at_concurrency", "lane_at_concurrency"]
    admin.set_lane_limits(LANE, None)
    admin.set_limits(LANE, "acme", QueueLimits(ordering="strict"))
    hand.settle(lease, "retry", delay_ms=60_000)
    held = admin.explain(LANE, "acme", "1")[0]
    assert held.code == "retry_backoff"
    assert held.until is not None
    admin.set_limits(LANE, "acme", QueueLimits(rate=Rate(1, 3600)))
    running = hand.claim_one()
    admin.set_limits(LANE, "acme", QueueLimits(rate=Rate(1, 3600), ordering="strict"))
    hand.settle(running, "retry", delay_ms=60_000)
    admin.pause(LANE, "acme")
    assert codes(broker, "2")[:3] == ["queue_paused", "retry_backoff", "rate_limited"]
    admin.resume(LANE, "acme")
    limited = admin.explain(LANE, "acme", "2")[1]
    assert limited.code == "rate_limited"
    assert limited.until is not None
    assert limited.until > datetime.now(UTC) + timedelta(minutes=50)


@pytest.mark.parametrize("obstacle", ["concurrency", "queue", "account", "rate", "strict"])
def test_who_may_not_start_stands_in_no_list_that_claims_look_through(
    broker: TenantBroker, client: Client, obstacle: str
) -> None:
    admin, hand = broker.queues_admin, Hand(broker)
    limits = {"rate": QueueLimits(concurrency=9, rate=Rate(1, 3600)), "strict": QueueLimits(ordering="strict")}
    accounts = [f"blocked{number}" for number in range(60)]  # more than any claim looks at
    for account in accounts:
        admin.set_limits(LANE, account, limits.get(obstacle, QueueLimits()))
    broker.enqueue_many(entry(str(n), account) for account in accounts for n in range(2))
    if obstacle == "queue":
        admin.pause_many(LANE, accounts)
    elif obstacle == "account":
        for account in accounts:
            admin.pause_account(account)
    else:
        for lease in hand.claim(len(accounts)):
            if obstacle == "strict":
                hand.settle(lease, "retry", delay_ms=3_600_000)
    assert client.zcard(f"{broker.keys.root(LANE)}:ready") == 0
    assert hand.claim(10) == []
    broker.enqueue_once(entry("1", "free"))
    assert client.zcard(f"{broker.keys.root(LANE)}:ready") == 1
    assert [each.account for each in hand.claim(1)] == ["free"]
