"""A worker process for the fault tests: `python -m tests.queues.worker_program URL LEASE EXTEND THREADS`.

Actors of lane `publish`:
- `note(n, seconds)`: appends `start n`, sleeps, appends `end n` to the list `events` (with the account and the pid);
- `stay(n)`: appends `start n` and stays until the key `go` exists.
Each start of a note checks by a mark in Redis that no other message of the account runs, and says `overlap` if one
does.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import redis

from tenants.queues import LeaseLost, TenantBroker, current_message


def main(url: str, lease: float, extend: float, threads: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    broker = TenantBroker(url=url, lease_seconds=lease, extend_seconds=extend)
    dramatiq.set_broker(broker)
    client = redis.Redis.from_url(url)

    def patiently(command: Callable[[], Any]) -> Any:
        """The command's answer, however often the server has to be asked: it may be away for a while."""
        while True:
            try:
                return command()
            except redis.RedisError:
                time.sleep(0.02)

    def tell(event: str, number: int) -> None:
        current = current_message()
        assert current is not None
        line = f"{event} {number} {current.account} {current.epoch} {time.time():.3f}"
        patiently(lambda: client.rpush("events", line))

    @dramatiq.actor(queue_name="publish", max_retries=0)
    def note(number: int, seconds: float) -> None:
        current = current_message()
        assert current is not None
        mine = f"running:{current.account}"
        before = patiently(lambda: client.set(mine, number, get=True))
        # A worker that was killed leaves its mark; then the very message that it ran comes next.
        if before is not None and int(before) != number:
            tell("overlap", number)
        tell("start", number)
        time.sleep(seconds)
        tell("end", number)
        patiently(lambda: client.delete(mine))

    @dramatiq.actor(queue_name="publish", max_retries=0)
    def stay(number: int) -> None:
        tell("start", number)
        try:
            while not client.exists("go"):
                time.sleep(0.01)
        except LeaseLost:
            tell("interrupted", number)
            raise
        tell("end", number)

    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=100)
    worker.start()
    print("ready", flush=True)
    while not stopping:
        time.sleep(0.02)
    worker.stop()
    broker.close()
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
