"""A Dramatiq project as its users have them, with the broker from the environment.

Run it by `dramatiq tests.tenants.queues.cli_project`.

Every middleware that users rely on is there; actors report what they did in the list `reported`.
"""

from __future__ import annotations

import os
import time
from typing import Any

import dramatiq
import redis
from dramatiq.middleware import AsyncIO, CurrentMessage
from dramatiq.middleware.prometheus import Prometheus
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as LimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend as ResultBackend

from tenants.queues import TenantBroker, current_message

URL = os.environ["LANES_URL"]
untyped: Any = Results
broker = TenantBroker(url=URL)
broker.add_middleware(untyped(backend=ResultBackend(url=URL)))
broker.add_middleware(AsyncIO())
broker.add_middleware(CurrentMessage())
if "dramatiq_prom_port" in os.environ:
    # Its exposition server is a fork of its own, which Dramatiq's command starts.
    broker.add_middleware(Prometheus())
dramatiq.set_broker(broker)
client: Any = redis.Redis.from_url(URL)
MUTEX: Any = ConcurrentRateLimiter


def report(*words: object) -> None:
    current = current_message()
    account = current.account if current is not None else None
    client.rpush("reported", " ".join(map(str, (*words, account, os.getpid()))))


@dramatiq.actor
def work(number: int, seconds: float) -> None:
    # The same lines as the fault tests' workers, for the same judge. While the key `hold` is there, none of them ends.
    current = current_message()
    assert current is not None
    for event in ("start", "end"):
        client.rpush("events", f"{event} {number} {current.account} {current.epoch} {time.time():.4f} {os.getpid()}")
        if event == "start":
            while client.exists("hold"):
                time.sleep(0.01)
            time.sleep(seconds)


@dramatiq.actor(store_results=True)
def add(one: int, other: int) -> int:
    return one + other


@dramatiq.actor
async def later(name: str) -> None:
    report("async", name)


@dramatiq.actor
def done(_message: object, result: object) -> None:
    report("callback", result)


@dramatiq.actor
def finished() -> None:
    report("group")


@dramatiq.actor(time_limit=300, max_retries=0)
def endless() -> None:
    try:
        while True:
            time.sleep(0.01)
    except dramatiq.middleware.TimeLimitExceeded:
        report("time limit")
        raise


@dramatiq.actor(max_age=1)
def old() -> None:
    report("too old")


@dramatiq.actor(max_retries=0, notify_shutdown=True, time_limit=600_000)
def notified() -> None:
    report("waiting")
    try:
        while True:
            time.sleep(0.01)
    except dramatiq.middleware.Shutdown:
        report("shutdown")
        raise


@dramatiq.actor(min_backoff=10, max_backoff=10, max_retries=100_000)
def exclusive() -> None:
    with MUTEX(LimiterBackend(url=URL), "exclusive", limit=1).acquire():
        before = client.incr("inside")
        report("inside", before)
        time.sleep(0.02)
        client.decr("inside")
