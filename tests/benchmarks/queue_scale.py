"""How long the broker's scripts hold the server at scale: `python -m tests.benchmarks.queue_scale [--messages N]`.

Fills a Valkey of its own with 1,000,000 waiting messages of 200,000 accounts (one of them with a long backlog of its
own), then runs every verb many times and asks the server itself what the scripts cost: microseconds from its SLOWLOG,
whose threshold is nought, so that it holds every call. The same verbs are measured on a small lane first, so that the
table shows what the size costs. It is wall time: what else runs on the machine shows in the longest, hardly in the
median.

Prints a table and writes `queue_scale.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import redis
from dramatiq import Message

from tenants.queues import EmbeddedValkey, Entry, QueueLimits, TenantBroker
from tenants.queues.lua import script
from tests.tenants.queues.lanes import Hand, Lease

LANE = "scale"
NOISY = "account-0"
SMALL = (1_000, 200)


def entries(messages: int, accounts: int) -> Iterator[Entry]:
    """A tenth of all messages are the noisy account's; the rest is spread evenly."""
    for number in range(messages):
        account = NOISY if number % 10 == 0 else f"account-{number % accounts}"
        yield Entry(Message(LANE, "act", (number,), {}, {"account": account}), str(number))


def fill(broker: TenantBroker, messages: int, accounts: int) -> float:
    """Enqueues all; gives back the seconds."""
    started, source = time.perf_counter(), entries(messages, accounts)
    while page := list(islice(source, 2000)):
        broker.enqueue_many(page)
    return time.perf_counter() - started


class Verbs:
    """Every verb as it is called in service; each method is one measured call, or several of one verb."""

    def __init__(self, broker: TenantBroker, accounts: int) -> None:
        self.broker, self.admin, self.hand = broker, broker.queues_admin, Hand(broker, lane=LANE)
        self.accounts = accounts
        self.numbers = count(10_000_000)
        self.leases: list[Lease] = []

    def _account(self) -> str:
        return f"account-{next(self.numbers) * 7919 % self.accounts}"

    def _new(self, number: int) -> list[Entry]:
        made = []
        for _ in range(number):
            message: Message[None] = Message(LANE, "act", (), {}, {"account": self._account()})
            made.append(Entry(message, str(next(self.numbers))))
        return made

    def enqueue(self) -> None:
        self.broker.enqueue_many(self._new(1))

    def enqueue_200(self) -> None:
        self.broker.enqueue_many(self._new(200))

    def claim(self) -> None:
        self.hand.give_back(*self.hand.claim(1))

    def claim_8(self) -> None:
        self.hand.give_back(*self.hand.claim(8))

    def settle_and_chain(self) -> None:
        if not self.leases:
            self.leases = self.hand.claim(1)
        self.leases += self.hand.settle(self.leases.pop(0), "retry", chain=True)

    def extend_8(self) -> None:
        # A worker of its own, so that it names all that the server holds for it.
        if getattr(self, "extender", None) is None:
            self.extender = Hand(self.broker, "extender", lane=LANE)
            self.extended = self.extender.claim(8)
        self.extender.extend(*self.extended)

    def rescue_8(self) -> None:
        leases = f"{self.hand.root}:leases"
        client: Any = self.broker.client
        if self.hand.claim(8):
            client.zadd(leases, dict.fromkeys(client.zrange(leases, 0, 7), 1))
        self.broker.server.run(script("rescue"), self.hand.root, 8)
        self.leases = []

    def describe(self) -> None:
        self.admin.describe(LANE, self._account())

    def totals(self) -> None:
        self.admin.totals(LANE)

    def explain(self) -> None:
        self.admin.explain(LANE, NOISY, str(next(self.numbers)))

    def heaviest(self) -> None:
        self.admin.heaviest(LANE, "backlog")

    def list_queues_200(self) -> None:
        self.admin.list_queues(LANE, limit=200)

    def limit(self) -> None:
        self.admin.set_limits(LANE, self._account(), QueueLimits(weight=2))

    def pause_500(self) -> None:
        self.admin.pause_many(LANE, [self._account() for _ in range(500)])

    def pause_lane(self) -> None:
        self.admin.pause(LANE)
        self.admin.resume(LANE)

    def purge_page(self) -> None:
        self.broker.server.run(script("purge"), self.hand.root, b"@" + NOISY.encode(), 500)

    def check_page(self) -> None:
        self.admin.check_page(LANE, (0, "queues", b"", ()))

    def reap_page(self) -> None:
        self.broker.server.run(script("reap"), self.hand.root, 0, 500, 0)

    def flush_page(self) -> None:
        self.broker.server.run(script("flush"), self.hand.root, 100)


#: In this order, because some take away what others need: verb → number of calls. Its first word is the script's name,
#: unless SCRIPTS says otherwise.
SCRIPTS = {
    "list_queues_200": "describe",
    "limit": "configure",
    "pause_500": "configure",
    "pause_lane": "configure_lane",
}
CALLS = {
    "totals": 500,
    "describe": 500,
    "explain": 500,
    "heaviest": 500,
    "list_queues_200": 20,
    "enqueue": 2000,
    "enqueue_200": 50,
    "claim": 1000,
    "claim_8": 200,
    "extend_8": 200,
    "settle_and_chain": 2000,
    "rescue_8": 100,
    "limit": 500,
    "check_page": 30,
    "pause_lane": 100,
    "pause_500": 10,
    "purge_page": 30,
    "reap_page": 10,
    "flush_page": 5,
}


def measure(client: Any, verb: str, call: Callable[[], None], number: int) -> dict[str, float]:
    """Microseconds of the verb's script, by the server."""
    sha = script(SCRIPTS.get(verb) or verb.partition("_")[0]).sha.encode()
    call()  # the first sends the script's text
    client.slowlog_reset()
    for _ in range(number):
        call()
    took = sorted(each["duration"] for each in client.slowlog_get(100_000) if sha in each["command"])
    return {
        "calls": len(took),
        "median_us": took[len(took) // 2],
        "p99_us": took[len(took) * 99 // 100],
        "max_us": took[-1],
    }


def run(messages: int, accounts: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder)) as server:
        client: Any = redis.Redis.from_url(server.url)
        client.config_set("appendonly", "no")
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 20_000)
        broker = TenantBroker(url=server.url)
        seconds = fill(broker, messages, accounts)
        memory = int(client.info("memory")["used_memory"])
        verbs = Verbs(broker, accounts)
        found = {verb: measure(client, verb, getattr(verbs, verb), number) for verb, number in CALLS.items()}
        broker.close()
        client.close()
    return {
        "messages": messages,
        "accounts": accounts,
        "fill_seconds": round(seconds, 1),
        "megabytes": round(memory / 1e6),
        "verbs": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=200_000)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    small, large = run(*SMALL), run(arguments.messages, arguments.accounts)
    for each in (small, large):
        print(
            f"{each['messages']:,} messages of {each['accounts']:,} accounts: filled in {each['fill_seconds']} s, "
            f"{each['megabytes']} MB"
        )
    print(f"{'verb':18}{'median µs':>10}{'small':>8}{'ratio':>7}{'p99 µs':>10}{'longest':>10}")
    for verb, far in large["verbs"].items():
        near = small["verbs"][verb]
        print(
            f"{verb:18}{far['median_us']:10}{near['median_us']:8}{far['median_us'] / near['median_us']:7.2f}"
            f"{far['p99_us']:10}{far['max_us']:10}"
        )
    arguments.json.write_text(json.dumps({"small": small, "large": large}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
