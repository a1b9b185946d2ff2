"""Tenant-queue broker against stock Dramatiq, both in one run: `python -m tests.benchmarks.broker [--large]`.

Measured, with one worker process of 8 threads and no-op jobs, on one Valkey with its append-only file off:
- throughput: stock `RedisBroker` on one shared queue (no isolation) against `TenantBroker` at 1,000 accounts (and
  100,000 with `--large`), rounds taken in turn, the best of each side kept;
- start latency on an idle worker, from before `send` to the actor's first line;
- threads, connections and CPU of an idle worker with 10,000 accounts, and Redis' memory for each of them.

Prints a table and writes `broker.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dramatiq
import psutil
import redis
from dramatiq.brokers.redis import RedisBroker

from tenants.queues import EmbeddedValkey, TenantBroker

THREADS = 8
BENCH_KEY = "bench:done"


def make_broker(kind: str, url: str) -> dramatiq.Broker:
    if kind == "stock":
        return RedisBroker(url=url)  # type: ignore[no-untyped-call]
    return TenantBroker(url=url)


def send_all(broker: dramatiq.Broker, kind: str, jobs: int, accounts: int) -> None:
    """Puts `jobs` no-op messages, spread over `accounts`, into the broker."""
    messages: list[dramatiq.Message[None]] = [
        dramatiq.Message("bench", "noop", (), {}, {"account": f"account-{n % accounts}"}) for n in range(jobs)
    ]
    if isinstance(broker, TenantBroker):
        from tenants.queues import Entry

        broker.enqueue_many(Entry(message, str(number)) for number, message in enumerate(messages))
    else:
        for message in messages:
            broker.enqueue(message)


def work(kind: str, url: str, jobs: int) -> None:
    """The worker process: runs `jobs` no-ops and prints the seconds from the first to the last."""
    logging.basicConfig(level=logging.WARNING)
    broker = make_broker(kind, url)
    dramatiq.set_broker(broker)
    times: list[float] = []

    @dramatiq.actor(queue_name="bench")
    def noop() -> None:
        times.append(time.perf_counter())

    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    while len(times) < jobs:
        time.sleep(0.02)
    cpu = time.process_time()
    print(json.dumps({"seconds": max(times) - min(times), "cpu": cpu}), flush=True)
    worker.stop()


def idle(kind: str, url: str) -> None:
    """The worker process for latency: reports each start's delay through a list."""
    logging.basicConfig(level=logging.WARNING)
    broker = make_broker(kind, url)
    dramatiq.set_broker(broker)
    client = redis.Redis.from_url(url)

    @dramatiq.actor(queue_name="bench")
    def ping(sent: float) -> None:
        client.rpush(BENCH_KEY, str(time.monotonic() - sent))

    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    worker.stop()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.broker", *arguments], stdout=subprocess.PIPE, text=True
    )


def throughput(kind: str, url: str, jobs: int, accounts: int) -> float:
    """Jobs a second."""
    client = redis.Redis.from_url(url)
    client.flushall()
    broker = make_broker(kind, url)
    broker.declare_queue("bench")
    send_all(broker, kind, jobs, accounts)
    process = start("--work", kind, url, str(jobs))
    assert process.stdout is not None
    result = json.loads(process.stdout.readline())
    process.wait()
    process.stdout.close()
    broker.close()
    client.close()
    return float(jobs / result["seconds"])


def latency(kind: str, url: str, samples: int) -> list[float]:
    """Seconds from before `send` to the actor's first line, on an idle worker."""
    client = redis.Redis.from_url(url)
    client.flushall()
    broker = make_broker(kind, url)
    broker.declare_queue("bench")
    process = start("--idle", kind, url)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.5)  # the worker's threads come to rest
    delays = []
    for number in range(samples):
        account = f"account-{number % 100}"
        broker.enqueue(dramatiq.Message("bench", "ping", (time.monotonic(),), {}, {"account": account}))
        popped = client.blpop([BENCH_KEY], timeout=10)
        assert popped is not None
        delays.append(float(popped[1]))
        time.sleep(0.005 + 0.013 * (number % 3))
    process.terminate()
    process.wait()
    process.stdout.close()
    broker.close()
    client.close()
    return sorted(delays[samples // 10 :])


def resources(url: str, accounts: int) -> dict[str, float]:
    """What an idle worker and the server need while `accounts` have a tenant queue each."""
    client = redis.Redis.from_url(url)
    client.flushall()
    broker = TenantBroker(url=url)
    broker.declare_queue("bench")
    empty = int(client.info("memory")["used_memory"])
    process = start("--idle", "tenant", url)
    assert process.stdout is not None
    process.stdout.readline()
    send_pings(broker, accounts)
    while int(client.llen(BENCH_KEY)) < accounts:
        time.sleep(0.05)
    client.delete(BENCH_KEY)
    worker = psutil.Process(process.pid)
    broker.close()
    time.sleep(1.0)
    before = worker.cpu_times()
    time.sleep(3.0)
    after = worker.cpu_times()
    others = 1  # this process' own client
    found = {
        "threads": worker.num_threads(),
        "connections": len(client.client_list()) - others,
        "cpu_percent": 100 * ((after.user - before.user) + (after.system - before.system)) / 3.0,
        "bytes_per_account": (int(client.info("memory")["used_memory"]) - empty) / accounts,
    }
    process.terminate()
    process.wait()
    process.stdout.close()
    client.close()
    return found


def send_pings(broker: TenantBroker, accounts: int) -> None:
    from tenants.queues import Entry

    broker.enqueue_many(
        Entry(dramatiq.Message("bench", "ping", (time.monotonic(),), {}, {"account": f"account-{n}"}), str(n))
        for n in range(accounts)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also 100,000 accounts")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--only", choices=["throughput", "latency", "resources"])
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--idle", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work[0], chosen.work[1], int(chosen.work[2]))
        return
    if chosen.idle:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        idle(*chosen.idle)
        return
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder), port=0) as server:
        client = redis.Redis.from_url(server.url)
        client.config_set("appendonly", "no")
        client.close()
        results = measure(server.url, chosen)
    chosen.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def measure(url: str, chosen: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {"cores": os.cpu_count(), "jobs": chosen.jobs, "threads": THREADS}
    sides = [("stock", 1), ("tenant", 1000)] + ([("tenant", 100_000)] if chosen.large else [])
    rows: list[tuple[str, str]] = []
    if chosen.only in (None, "throughput"):
        rates: dict[str, list[float]] = {}
        for _ in range(chosen.rounds):
            for kind, accounts in sides:
                jobs = max(chosen.jobs, accounts)
                rates.setdefault(f"{kind} {accounts}", []).append(throughput(kind, url, jobs, accounts))
        results["throughput"] = rates
        stock = max(rates["stock 1"])
        for name, rate in rates.items():
            rows.append((f"jobs/s, {name} account(s)", f"{max(rate):8.0f}   {max(rate) / stock:5.2f} x stock"))
    if chosen.only in (None, "latency"):
        for kind in ("stock", "tenant"):
            delays = latency(kind, url, chosen.samples)
            p50, p99 = statistics.median(delays), delays[int(len(delays) * 0.99) - 1]
            results[f"latency_{kind}_ms"] = {"p50": p50 * 1000, "p99": p99 * 1000}
            rows.append((f"idle start, {kind}", f"p50 {p50 * 1000:6.2f} ms   p99 {p99 * 1000:6.2f} ms"))
    if chosen.only in (None, "resources"):
        found = resources(url, 10_000)
        results["idle_worker_10000_accounts"] = found
        rows += [(f"10,000 accounts: {name}", f"{value:8.1f}") for name, value in found.items()]
    for name, value in rows:
        print(f"{name:42} {value}")
    return results


if __name__ == "__main__":
    main()
