"""The Dramatiq sides of the broker benchmark, as processes: `python -m tests.benchmarks.python_side MODE …`.

    fill KIND URL ACCOUNTS JOBS     adds JOBS no-op messages, spread over ACCOUNTS
    work KIND URL ACCOUNTS THREADS  a stock Dramatiq Worker over the broker
    send KIND URL ACCOUNTS SAMPLES  sends messages one by one, each after the last has started; prints the delays

KIND: `tenant` is onelane's broker; `shared` is stock Dramatiq with one queue for all; `queues` is stock Dramatiq with a
queue for each account. `work` speaks lines, as `bullmq_side.cjs` does: it says "ready"; "go" starts it, "report" asks
for {jobs, first, last, cpu}, end of input ends it. Times are the monotonic clock's, seconds.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from tenants.queues import Entry, TenantBroker

STARTED = "bench:started"


def make_broker(kind: str, url: str) -> dramatiq.Broker:
    if kind == "tenant":
        return TenantBroker(url=url)
    # redis-py's pool ends at 100 connections, which two consumer threads for each queue soon need.
    pool = redis.ConnectionPool.from_url(url, max_connections=2**20)
    return RedisBroker(client=redis.Redis(connection_pool=pool))  # type: ignore[no-untyped-call]


def queue_of(kind: str, account: int) -> str:
    """The Dramatiq queue on which an account's messages travel."""
    return f"account-{account}" if kind == "queues" else "bench"


def queues_of(kind: str, accounts: int) -> list[str]:
    return [queue_of(kind, account) for account in range(accounts if kind == "queues" else 1)]


def message_of(kind: str, account: int, actor: str, *arguments: float) -> dramatiq.Message[None]:
    queue = queue_of(kind, account)
    name = f"{actor}-{account}" if kind == "queues" else actor
    return dramatiq.Message(queue, name, arguments, {}, {"account": f"account-{account}"})


def fill(kind: str, url: str, accounts: int, jobs: int) -> None:
    broker = make_broker(kind, url)
    for queue in queues_of(kind, accounts):
        broker.declare_queue(queue)
    if isinstance(broker, TenantBroker):
        broker.enqueue_many(Entry(message_of(kind, number % accounts, "noop"), str(number)) for number in range(jobs))
    else:
        for number in range(jobs):
            broker.enqueue(message_of(kind, number % accounts, "noop"))
    broker.close()


class Seen:
    """What the process' actors did; adding to a list needs no lock."""

    def __init__(self, url: str) -> None:
        self.times: list[float] = []
        self._reports = redis.Redis.from_url(url)

    def noop(self) -> None:
        self.times.append(time.monotonic())

    def ping(self, sent: float) -> None:
        self._reports.rpush(STARTED, str(time.monotonic() - sent))

    def nap(self, seconds: float) -> None:
        time.sleep(seconds)

    def hold(self) -> None:
        self._reports.rpush(STARTED, str(time.monotonic()))
        time.sleep(60)

    def report(self) -> dict[str, float]:
        jobs = len(self.times)
        return {
            "jobs": jobs,
            # Threads add in the order of time; going through all of them took time from what is measured.
            "first": self.times[0] if jobs else 0.0,
            "last": self.times[jobs - 1] if jobs else 0.0,
            "cpu": time.process_time(),
        }


def declare(kind: str, accounts: int, seen: Seen) -> None:
    """One actor of each sort; with a queue for each account, one for each queue, since an actor has one queue."""
    for account in range(accounts if kind == "queues" else 1):
        actors: list[Callable[..., None]] = [seen.noop, seen.ping, seen.nap, seen.hold]
        for work in actors:
            name = f"{work.__name__}-{account}" if kind == "queues" else work.__name__
            dramatiq.actor(actor_name=name, queue_name=queue_of(kind, account))(work)


def work(kind: str, url: str, accounts: int, threads: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    broker = make_broker(kind, url)
    dramatiq.set_broker(broker)
    seen = Seen(url)
    declare(kind, accounts, seen)
    worker = dramatiq.Worker(broker, worker_threads=threads)
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "go\n":
            worker.start()
        else:
            print(json.dumps(seen.report()), flush=True)
    # Hundreds of consumer threads take long to stop in order; nothing is left to lose.
    os._exit(0)


def send(kind: str, url: str, accounts: int, samples: int) -> None:
    broker = make_broker(kind, url)
    for queue in queues_of(kind, min(accounts, 100)):
        broker.declare_queue(queue)
    client = redis.Redis.from_url(url, socket_timeout=None)
    delays = []
    for sample in range(samples):
        broker.enqueue(message_of(kind, sample % min(accounts, 100), "ping", time.monotonic()))
        popped = client.blpop([STARTED], timeout=10)
        if popped is None:
            raise SystemExit("a message was not started within 10 s")
        delays.append(float(popped[1]))
        time.sleep(0.005 + 0.013 * (sample % 3))
    print(json.dumps(delays))


MODES = {"fill": fill, "work": work, "send": send}

if __name__ == "__main__":
    _, mode, kind, url, accounts, number = sys.argv
    MODES[mode](kind, url, int(accounts), int(number))
