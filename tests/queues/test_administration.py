"""Looking at tenant queues, removing from them, reaping them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tenants.queues import InvalidEntry, TenantBroker
from tests.queues.lanes import LANE, Client, Hand, age_lease, entry


def test_describe_tells_what_a_queue_holds(broker: TenantBroker) -> None:
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
    idle, _ = broker.queues_admin.list_queues(LANE, idle_longer_than=3600)
    assert idle == []
    with pytest.raises(InvalidEntry, match="cursor"):
        broker.queues_admin.list_queues(cursor="not ours")


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
    broker.enqueue_many([entry("1", account) for account in idle])
    for lease in hand.claim(30):
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
    for lane_wide in (b"onelane:{publish}", b"onelane:{publish}:bell"):
        found.pop(lane_wide, None)
    return {key: value for key, value in found.items() if value != [] and b":spent:" not in key}


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
    (first, most), (second, less) = broker.queues_admin.heaviest(LANE)
    assert (first, second) == ("noisy", "quiet")
    assert 30 <= most < 31
    assert 2 <= less < 3


def test_an_idle_account_takes_less_than_a_kibibyte(broker: TenantBroker, client: Client) -> None:
    hand = Hand(broker)

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
