"""A lane driven by hand: the verbs as a worker process would call them, without Dramatiq around."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import count
from typing import Any

from dramatiq import Message

from tenants.queues import Entry, TenantBroker
from tenants.queues.keys import account_of, token
from tenants.queues.lua import script

LANE = "publish"

#: redis-py types its answers as bytes or str, whichever the client was made for; a test knows that they are bytes.
Client = Any


def message(account: str | None = "acme", lane: str = LANE, **options: Any) -> Message[Any]:
    if account is not None:
        options["account"] = account
    return Message(queue_name=lane, actor_name="act", args=(), kwargs={}, options=options)


def entry(entry_id: str, account: str | None = "acme", lane: str = LANE, **fields: Any) -> Entry:
    return Entry(message(account, lane), entry_id, **fields)


@dataclass
class Lease:
    account: str | None
    slot: int
    epoch: int
    id: str
    deliveries: int


class Hand:
    """One worker's hand on a lane."""

    def __init__(self, broker: TenantBroker, worker: str = "w1", lane: str = LANE, lease_ms: int = 15000) -> None:
        self.server = broker.server
        self.root = broker.keys.root(lane)
        self.worker = worker
        self.lease_ms = lease_ms
        self.numbers = count(1)
        self.next_ms = -1
        self.left = 0
        self.settled = True

    def _leases(self, answer: Any) -> list[Lease]:
        self.left, self.next_ms = answer[0], answer[1]
        parts = iter(answer[2])
        return [
            Lease(account_of(raw), int(slot), int(epoch), entry_id.decode(), int(stored.split(b":", 3)[2]))
            for raw, slot, epoch, entry_id, stored in zip(parts, parts, parts, parts, parts, strict=True)
        ]

    def claim(self, number: int = 1, *, request: int | None = None, again: bool = False) -> list[Lease]:
        request = request or next(self.numbers)
        return self._leases(
            self.server.run(script("claim"), self.root, self.worker, request, int(again), number, self.lease_ms, 0)
        )

    def claim_one(self) -> Lease:
        (lease,) = self.claim()
        return lease

    def settle(
        self,
        lease: Lease,
        outcome: str = "done",
        *,
        chain: bool = False,
        delay_ms: int = 0,
        request: int | None = None,
        again: bool = False,
        new: bytes = b"",
    ) -> list[Lease]:
        request = request or next(self.numbers)
        named = (token(lease.account), lease.slot, lease.epoch)
        answer = self.server.run(
            script("settle"),
            self.root,
            self.worker,
            request,
            int(again),
            int(chain),
            self.lease_ms,
            0,
            *((1, *named) if outcome == "done" else (0, *named, outcome, delay_ms, new, "reason")),
        )
        self.settled = bool(answer[4])
        return self._leases(answer)

    def extend(self, *leases: Lease, issued: int = 10**9, in_flight: tuple[int, ...] = ()) -> tuple[list[int], int]:
        named = [part for each in leases for part in (token(each.account), each.slot, each.epoch)]
        lost, given_back = self.server.run(
            script("extend"), self.root, self.worker, self.lease_ms, issued, len(in_flight), *in_flight, *named
        )
        return lost, given_back

    def give_back(self, *leases: Lease) -> int:
        named = [part for each in leases for part in (token(each.account), each.slot, each.epoch)]
        given: int = self.server.run(script("give_back"), self.root, *named)
        return given

    def reschedule(self, lease: Lease, delay_ms: int, new: bytes = b"") -> bool:
        return bool(
            self.server.run(
                script("reschedule"), self.root, token(lease.account), lease.slot, lease.epoch, delay_ms, new
            )
        )

    def rescue(self) -> int:
        ended: int = self.server.run(script("rescue"), self.root, 100)
        return ended


def age_lease(client: Client, broker: TenantBroker, lease: Lease, seconds: float) -> None:
    """Makes a lease look as if its message had started `seconds` earlier."""
    root, raw = broker.keys.root(LANE), token(lease.account)
    lease.epoch -= round(seconds * 1e6)
    epoch = EPOCH.pack(lease.epoch)
    if lease.slot == 0:
        state = state_of(client, root, raw)
        state[-1] = epoch + state[-1][EPOCH.size :]
        set_state(client, root, raw, state)
    else:
        key = f"{root}:slots:".encode() + raw
        client.hset(key, lease.slot, epoch + client.hget(key, lease.slot)[EPOCH.size :])


#: The state of a tenant queue, as queue.lua packs it, before the lease of slot 0; fields of it.
STATE = struct.Struct(">cc8dII")
VIRTUAL_START, DUE = 2, 7
#: What a lease record begins with, and the lane's own state.
EPOCH = struct.Struct(">d")


def state_of(client: Client, root: str, raw: bytes) -> list[Any]:
    """The fields, and what follows them."""
    stored = client.get(f"{root}:state:".encode() + raw)
    return [*STATE.unpack_from(stored), stored[STATE.size :]]


def set_state(client: Client, root: str, raw: bytes, state: list[Any]) -> None:
    client.set(f"{root}:state:".encode() + raw, STATE.pack(*state[:-1]) + state[-1])


def clock_of(client: Client, root: str) -> float:
    """The lane's virtual clock, µs."""
    clock: float = EPOCH.unpack_from(client.get(root))[0]
    return clock
