"""Keys of another release's layout: refused by the broker alone, carried over, never read."""

from __future__ import annotations

from typing import Any

import pytest

from tenants.queues import QueueLimits, TenantBroker, UnsupportedLayout
from tenants.queues.__main__ import main
from tests.tenants.queues.conftest import MakeBroker
from tests.tenants.queues.lanes import LANE, Client, Hand, entry
from tests.tenants.queues.layouts import restore

OLD_ROOT = "onelane:{publish}"
#: What its broker held when it was killed: six accounts with four messages each, of which one was buried.
ACCOUNTS = ["plain", "wide", "strict", "paused", "a:{b} ü", None]


def end_leases(client: Client, root: str, at: int = 1) -> None:
    for member in client.zrange(f"{root}:leases", 0, -1):
        client.zadd(f"{root}:leases", {member: at})


def drain(broker: TenantBroker) -> dict[str | None, list[str]]:
    ran: dict[str | None, list[str]] = {}
    hand = Hand(broker)
    while claimed := hand.claim(20):
        for lease in claimed:
            ran.setdefault(lease.account, []).append(lease.id)
            hand.settle(lease)
    return ran


def test_the_broker_alone_refuses_to_work_beside_an_earlier_layout(broker: TenantBroker, client: Client) -> None:
    restore(client)
    before = {key: client.dump(key) for key in client.scan_iter()}
    calls: list[Any] = [
        lambda: broker.enqueue_once(entry("1")),
        lambda: Hand(broker).claim(),
        lambda: broker.queues_admin.totals(LANE),
        lambda: broker.queues_admin.check(LANE),
    ]
    for call in calls:
        with pytest.raises(UnsupportedLayout) as caught:
            call()
        assert "'onelane' at" in str(caught.value)
        assert "python -m tenants.queues carry-over" in str(caught.value)
    assert {key: client.dump(key) for key in client.scan_iter() if key != b"onelane:2:lanes"} == before


def test_a_layout_of_a_later_release_is_refused(make_broker: MakeBroker, client: Client) -> None:
    make_broker().enqueue_once(entry("1"))
    assert make_broker().layouts.others() == []
    client.sadd("onelane:layouts", 3)
    late = make_broker()
    with pytest.raises(UnsupportedLayout, match="keys of layout 3") as caught:
        late.enqueue_once(entry("2"))
    assert caught.value.others == (3,)
    with pytest.raises(UnsupportedLayout):
        late.layouts.carry_over()


def test_all_that_an_earlier_release_left_is_carried_over(make_broker: MakeBroker, client: Client) -> None:
    restore(client)
    end_leases(client, OLD_ROOT)
    broker = make_broker(other_layouts="ignore")
    done = broker.layouts.carry_over()
    assert (done.messages, done.left) == (24, 0)
    admin = broker.queues_admin
    assert [
        key for key in client.scan_iter("onelane:*") if not key.startswith((b"onelane:2:", b"onelane:layouts"))
    ] == []
    wide = admin.describe(LANE, "wide")
    assert wide is not None
    assert wide.limits == QueueLimits(concurrency=2, weight=3)
    totals = admin.totals(LANE)
    assert (totals.waiting, totals.delayed, totals.buried, totals.global_concurrency) == (23, 1, 1, 50)
    assert admin.buried(LANE)[0].account == "strict"
    assert admin.check(LANE) == []
    admin.resume(LANE, "paused")
    late = drain(make_broker())  # which refuses nothing any more
    wanted: dict[str | None, list[str]] = {account: ["0", "1", "2", "3"] for account in ACCOUNTS}
    wanted["strict"] = ["1", "2", "3"]
    assert late == wanted
    assert broker.layouts.carry_over().messages == 0


def test_what_may_still_run_is_left_until_its_lease_ends(make_broker: MakeBroker, client: Client) -> None:
    restore(client)
    end_leases(client, OLD_ROOT, at=2**42)
    broker = make_broker(other_layouts="ignore")
    first = broker.layouts.carry_over()
    assert (first.messages, first.left) == (16, 8)
    with pytest.raises(UnsupportedLayout):
        make_broker().queues_admin.totals(LANE)
    end_leases(client, OLD_ROOT)
    second = broker.layouts.carry_over()
    assert (second.messages, second.left) == (8, 0)
    assert make_broker().queues_admin.totals(LANE).waiting == 23


def test_the_command_carries_over(
    redis_url: str, make_broker: MakeBroker, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    restore(client)
    end_leases(client, OLD_ROOT)
    assert main(["carry-over", redis_url]) == 0
    assert "24 message(s) carried over" in capsys.readouterr().out
    assert make_broker().queues_admin.totals(LANE).waiting == 23
    client.sadd("onelane:layouts", 3)
    assert main(["carry-over", redis_url]) == 1
    assert "keys of layout 3" in capsys.readouterr().err


def test_a_state_of_an_earlier_layout_is_lost_for_its_queue_alone(broker: TenantBroker, client: Client) -> None:
    """Its keys under this layout's names: every script meets states that it cannot read, and none fails."""
    broker.enqueue_once(entry("1", "well"))
    restore(client, (OLD_ROOT, broker.keys.root(LANE)))
    client.delete("onelane:lanes")
    admin, hand = broker.queues_admin, Hand(broker)
    broker.enqueue_many([entry("new", "plain"), entry("2", "well"), entry("new", "a:{b} ü")])
    assert admin.describe(LANE, "plain") is not None
    leases = hand.claim(9)
    assert {lease.account for lease in leases} >= {"well"}
    assert hand.extend(*leases) == ([], 0)
    hand.rescue()
    end_leases(client, hand.root)
    admin.check(LANE)
    hand.rescue()
    admin.check(LANE)
    admin.resume(LANE, "paused")
    ran = drain(broker)
    assert sorted(ran["plain"]) == ["0", "1", "2", "3", "new"]
    assert {account: len(ids) for account, ids in ran.items()} == {
        **dict.fromkeys(ACCOUNTS, 4),
        "plain": 5,
        "a:{b} ü": 5,
        "strict": 3,
        "well": 2,
    }
    assert admin.check(LANE) == []
