"""What a lane holds, entry by entry, and the early end of leases whose holders are dead."""

from __future__ import annotations

from tenants.queues import HeldEntries, TenantBroker, lease_holder
from tests.tenants.queues.lanes import LANE, Client, Hand, entry


def held(broker: TenantBroker) -> dict[str | None, list[HeldEntries]]:
    found: dict[str | None, list[HeldEntries]] = {}
    for page in broker.queues_admin.entries(LANE):
        found.setdefault(page.account, []).append(page)
    return found


def test_every_entry_is_listed_once_and_in_order(broker: TenantBroker) -> None:
    broker.enqueue_many(entry(f"busy {number:04}", "busy", sequence=number) for number in range(1201))
    broker.enqueue_many(entry(f"late {number:04}", "busy", delay_seconds=60 + number) for number in range(7))
    broker.enqueue_many(entry(f"of {number}", f"account {number}") for number in range(120))
    broker.enqueue_once(entry("nobody's", None))
    listed = held(broker)
    busy = [each for page in listed["busy"] for each in page.ids]
    assert busy == [*(f"busy {number:04}" for number in range(1201)), *(f"late {number:04}" for number in range(7))]
    assert all(listed[f"account {number}"][0].ids == (f"of {number}",) for number in range(120))
    assert listed[None][0].ids == ("nobody's",)
    assert len(listed) == 122


def test_a_released_lease_goes_back_and_its_holder_is_refused(broker: TenantBroker, client: Client) -> None:
    broker.enqueue_once(entry("one"))
    hand = Hand(broker, worker="host-7.abc")
    lease = hand.claim_one()
    (page,) = held(broker)["acme"]
    assert page.ids == ()
    (found,) = page.leases
    assert (found.slot, found.epoch, found.worker, found.entry_id) == (0, lease.epoch, "host-7.abc", "one")
    assert broker.queues_admin.release(LANE, "acme", [found]) == 1
    assert broker.queues_admin.release(LANE, "acme", [found]) == 0
    hand.settle(lease)
    assert not hand.settled
    again = Hand(broker, worker="w2").claim_one()
    assert (again.id, again.deliveries) == ("one", 1)
    assert broker.queues_admin.check(LANE) == []


def test_a_lease_names_its_worker(broker: TenantBroker) -> None:
    assert broker.worker_id.rpartition(".")[0] == lease_holder("worker")
    assert lease_holder("höst name-3") == "h_st_name-3"
