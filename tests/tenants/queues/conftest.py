"""Fixtures for the tenant-queue broker: a real server, a broker on it, and workers that are always stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import dramatiq
import pytest
import redis
from dramatiq import Worker

from tenants.queues import TenantBroker
from tests.tenants.queues.processes import LEASE_SECONDS, StartProcess


class MakeBroker(Protocol):
    def __call__(self, **parameters: object) -> TenantBroker: ...


@pytest.fixture
def make_broker(redis_url: str) -> Iterator[MakeBroker]:
    """Brokers on the shared server, closed after the test."""
    made: list[TenantBroker] = []

    def make(**parameters: object) -> TenantBroker:
        broker = TenantBroker(**{"url": redis_url, **parameters})  # type: ignore[arg-type]
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def broker(make_broker: MakeBroker) -> TenantBroker:
    broker = make_broker()
    dramatiq.set_broker(broker)
    return broker


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    """Starts Dramatiq's own worker; it is stopped after the test."""
    started: list[Worker] = []

    def start(broker: TenantBroker, threads: int = 4, timeout_ms: int = 100) -> Worker:
        worker = Worker(broker, worker_threads=threads, worker_timeout=timeout_ms)
        worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.stop(timeout=PATIENCE_MS)


#: How long a test waits for what has to come, ms: a bound for a machine that is starved, not a measure.
PATIENCE_MS = 45_000


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_MS / 1000) -> None:
    """Waits until the condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.005)


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Starts worker processes; whatever is left of them is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        url: str, *more: str, lease: float = LEASE_SECONDS, extend: float = 0.3, threads: int = 2
    ) -> subprocess.Popen[str]:
        program = [
            sys.executable,
            "-m",
            "tests.tenants.queues.worker_program",
            url,
            str(lease),
            str(extend),
            str(threads),
        ]
        process = subprocess.Popen([*program, *more], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
