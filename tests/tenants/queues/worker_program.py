"""A worker process for the fault tests: `python -m tests.tenants.queues.worker_program URL LEASE EXTEND THREADS`.

Actors of lane `publish`:
- `note(n, seconds)`: appends `start n`, sleeps, appends `end n` to the list `events` (account, epoch, time, pid);
- `stay(n)`: appends `start n` and stays until the key `go` exists; a lost lease ends it with `interrupted n`;
- `die(n)`: appends `start n` and kills its process.
`--events URL` keeps the events on another server than the queues: one that the test does not attack.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import redis
from redis.sentinel import Sentinel

from tenants.queues import LeaseLost, TenantBroker, current_message


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.WARNING)
    broker = make_broker(arguments)
    dramatiq.set_broker(broker)
    client = redis.Redis.from_url(arguments.events or arguments.url)

    def patiently(command: Callable[[], Any]) -> Any:
        """The command's answer, however often the server has to be asked: it may be away for a while."""
        while True:
            try:
                return command()
            except redis.RedisError:
                time.sleep(0.02)

    def report(event: str, number: int) -> None:
        current = current_message()
        assert current is not None
        # The time is taken before the way to the server: an end is never reported later than it was.
        line = f"{event} {number} {current.account} {current.epoch} {time.time():.4f} {os.getpid()}"
        patiently(lambda: client.rpush("events", line))

    @dramatiq.actor(queue_name="publish", max_retries=0)
    def note(number: int, seconds: float) -> None:
        report("start", number)
        time.sleep(seconds)
        report("end", number)

    @dramatiq.actor(queue_name="publish", max_retries=0)
    def stay(number: int) -> None:
        report("start", number)
        try:
            while not patiently(lambda: client.exists("go")):
                time.sleep(0.01)
        except LeaseLost:
            report("interrupted", number)
            raise
        report("end", number)

    @dramatiq.actor(queue_name="publish", max_retries=0)
    def die(number: int) -> None:
        report("start", number)
        os.kill(os.getpid(), signal.SIGKILL)

    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    worker = dramatiq.Worker(broker, worker_threads=arguments.threads, worker_timeout=100)
    worker.start()
    print("ready", flush=True)
    while not stopping:
        time.sleep(0.02)
    worker.stop()
    broker.close()
    client.close()


def make_broker(arguments: argparse.Namespace) -> TenantBroker:
    lease: dict[str, Any] = {"lease_seconds": arguments.lease, "extend_seconds": arguments.extend}
    if arguments.sentinel is None:
        return TenantBroker(url=arguments.url, shards=arguments.shards, **lease)
    untyped: Any = Sentinel
    sentinel = untyped([("127.0.0.1", arguments.sentinel)], socket_timeout=5)
    return TenantBroker(client=sentinel.master_for("lanes", socket_timeout=5, socket_connect_timeout=5), **lease)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("lease", type=float)
    parser.add_argument("extend", type=float)
    parser.add_argument("threads", type=int)
    parser.add_argument("--events")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--sentinel", type=int)
    main(parser.parse_args())
