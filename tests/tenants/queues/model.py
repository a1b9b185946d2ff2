"""What a lane promises, in plain Python: which entries it holds, where they are, and which may start.

It knows where each entry is (waiting, delayed, leased, or ended) and the order within each account. It does not order
the accounts; it only says which of them could be next. It has no clock: what is delayed, in backoff or paused for an
hour stays so until a call says that the hour is over.

What must hold, beside "each entry in one place" and the order of an account:

- A retry of an account with strict ordering waits through its backoff in its place, and until that is over or the retry
  is gone nothing of the account starts. With relaxed ordering it is delayed, and others pass it.
- What waits and is delayed, leases aside, is never brought above `max_waiting` by an enqueue. A call that would do so
  changes nothing at all. What is held already, or named before, takes no room.
- Of a paused account nothing starts on any lane, whenever that is used first; the pauses of a queue, its account and
  the lane each hold, whatever becomes of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

#: Of a rate: so few in so long that none comes back while the test runs.
STARTS = 3

Place = Literal["waiting", "delayed", "leased"]
Pause = Literal["no", "an hour", "for good"]


@dataclass
class Held:
    """An entry that the server must hold."""

    id: str
    order: tuple[int, int]
    place: Place = "waiting"
    deliveries: int = 0
    reschedule: bool = False
    #: It waits for a retry whose time has not come: only with strict ordering.
    backoff: bool = False


@dataclass(frozen=True)
class Asked:
    """An entry that is to be enqueued."""

    account: str | None
    id: str
    order: tuple[int, int]
    delayed: bool


@dataclass
class Queue:
    entries: dict[str, Held] = field(default_factory=dict)
    concurrency: int = 1
    max_deliveries: int | None = None
    max_waiting: int | None = None
    strict: bool = False
    paused: Pause = "no"
    #: At most STARTS an hour, while it is set; starts while it is not set do not count.
    rated: bool = False
    starts: int = 0

    def at(self, place: Place) -> list[Held]:
        return sorted((each for each in self.entries.values() if each.place == place), key=lambda each: each.order)

    def in_backoff(self) -> list[Held]:
        return [each for each in self.entries.values() if each.backoff]

    def put_back(self, entry_id: str, *, later: bool) -> None:
        """A lease has ended and the entry is to run again, now or in an hour."""
        held = self.entries[entry_id]
        held.place = "delayed" if later and not self.strict else "waiting"
        held.backoff = later and self.strict
        held.reschedule = False

    def set_strict(self, strict: bool) -> None:
        """For later retries. Without strict ordering a retry no longer holds its queue, and runs in order."""
        self.strict = strict
        if not strict:
            self.time_passes_for_backoff()

    def time_passes_for_backoff(self) -> None:
        for each in self.in_backoff():
            each.backoff = False


class Model:
    """One lane with its tenant queues; of other lanes what waits there, which only a pause of its account holds up."""

    def __init__(self, accounts: Iterable[str | None]) -> None:
        self.queues = {account: Queue() for account in accounts}
        self.account_paused: dict[str | None, Pause] = dict.fromkeys(self.queues, "no")
        self.lane_paused: Pause = "no"
        self.global_concurrency: int | None = None
        self.buried = 0
        #: Lane → account → entry ids in their order.
        self.elsewhere: dict[str, dict[str | None, list[str]]] = {}

    def full(self, asked: list[Asked]) -> str | None:
        """The account for which these are too many: the first in the row."""
        for account in dict.fromkeys(each.account for each in asked):
            queue = self.queues[account]
            new = {each.id for each in asked if each.account == account} - queue.entries.keys()
            held = len(queue.at("waiting")) + len(queue.at("delayed"))
            if new and queue.max_waiting is not None and held + len(new) > queue.max_waiting:
                return account
        return None

    def enqueue(self, asked: list[Asked]) -> int:
        """Adds what is not held, each once by its id; of what is delayed the earlier time counts. Returns how many."""
        added, named = 0, set()
        for each in asked:
            if (each.account, each.id) in named:
                continue
            named.add((each.account, each.id))
            entries = self.queues[each.account].entries
            if each.id not in entries:
                entries[each.id] = Held(each.id, each.order, "delayed" if each.delayed else "waiting")
                added += 1
            elif entries[each.id].place == "delayed" and not each.delayed:
                entries[each.id].place = "waiting"
        return added

    def expire(self, account: str | None, entry_id: str) -> None:
        """A lease has come to its end without its holder."""
        queue = self.queues[account]
        held = queue.entries[entry_id]
        if held.reschedule:
            held.deliveries = 0
            queue.put_back(entry_id, later=True)
        elif queue.max_deliveries is not None and held.deliveries + 1 >= queue.max_deliveries:
            self.buried += 1
            del queue.entries[entry_id]
        else:
            held.deliveries += 1
            queue.put_back(entry_id, later=False)

    def settle(self, account: str | None, entry_id: str, outcome: str) -> None:
        """`outcome`: done, retry (now), later (retry in an hour) or bury."""
        queue = self.queues[account]
        held = queue.entries[entry_id]
        held.deliveries = 0
        if outcome == "bury":
            self.buried += 1
            del queue.entries[entry_id]
        elif outcome == "done" and not held.reschedule:
            del queue.entries[entry_id]
        else:
            queue.put_back(entry_id, later=outcome != "retry")

    def pauses(self, account: str | None) -> list[Pause]:
        """All that hold the account's queue."""
        found = [self.queues[account].paused, self.account_paused[account], self.lane_paused]
        return [each for each in found if each != "no"]

    def time_passes_for_pauses(self, account: str | None) -> None:
        """The hour of the account's pauses, and of its queue's, is over; of the lane's where no account is named."""
        if account is None:
            self.lane_paused = "for good" if self.lane_paused == "for good" else "no"
        else:
            queue = self.queues[account]
            queue.paused = "for good" if queue.paused == "for good" else "no"
            self.account_paused[account] = "for good" if self.account_paused[account] == "for good" else "no"

    def ready(self) -> list[str | None]:
        """The accounts that may start something, were it for them alone."""
        return [
            account
            for account, queue in self.queues.items()
            if queue.at("waiting")
            and not queue.in_backoff()
            and queue.paused == "no"
            and self.account_paused[account] == "no"
            and not (queue.rated and queue.starts >= STARTS)
            and (account is None or len(queue.at("leased")) < queue.concurrency)
        ]

    def startable(self) -> list[str | None]:
        """The accounts that may start something on the lane as it is."""
        running = sum(len(queue.at("leased")) for queue in self.queues.values())
        if self.lane_paused != "no" or (self.global_concurrency is not None and running >= self.global_concurrency):
            return []
        return self.ready()

    def startable_elsewhere(self, lane: str) -> dict[str | None, list[str]]:
        """What runs on another lane when somebody works it off."""
        waiting = self.elsewhere.get(lane, {})
        return {account: ids for account, ids in waiting.items() if ids and self.account_paused[account] == "no"}
