"""Tenant-queue broker against its rivals, in one run: `python -m tests.benchmarks.broker [--quick] [--only ...]`.

On one Valkey with its append-only file off, no-op jobs:
- burst: jobs that wait already, spread over the accounts, from the first start to the last, and the CPU time of worker
  and server for each job; rounds are taken in turn
  over all sides, and the best of each side is kept, because other work on the machine only ever slows a round down;
- at rest after it: memory of the worker processes and of the server, connections, threads, CPU;
- start latency on the idle worker, from before the send to the job's first line;
and for our side alone: bytes of an idle account, quiet accounts beside a noisy one, recovery after `kill -9`.

The sides: ours; BullMQ with a Queue and a Worker for each account (serial, like ours), over shared connections and over
its default ones; BullMQ and stock Dramatiq with one queue for all (not serial); stock Dramatiq with a queue for each
account (not serial either: its threads take one account's jobs at the same time). Python workers have eight threads;
against BullMQ with a worker for each account, which runs up to 1,000 jobs at a time, ours has 64 (the table shows the
eight too). BullMQ is installed with npm.

Prints tables with ratios and writes `broker.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from tenants.queues import EmbeddedValkey, Entry, TenantBroker

from .python_side import STARTED, make_broker, message_of
from .sides import PACKAGES, THREADS, WIDE_THREADS, Side, Workers, install_bullmq

OURS = Side("onelane", True, "tenant", 1000)
OURS_TWICE = Side("onelane, 2 processes", True, "tenant", 1000, 2)
OURS_WIDE = Side(f"onelane, {WIDE_THREADS} threads", True, "tenant", 1000, threads=WIDE_THREADS)
OURS_WIDE_TWICE = Side(f"onelane, 2 processes x {WIDE_THREADS} threads", True, "tenant", 1000, 2, WIDE_THREADS)
OURS_LARGE = Side("onelane, 100,000 accounts", True, "tenant", 100_000, jobs=100_000)
#: What it is held against: a burst that lasts as long, because the best of short ones is a better moment's.
OURS_LONG = Side("onelane, 100 jobs an account", True, "tenant", 1000, jobs=100_000)
STOCK = Side("Dramatiq, one queue", False, "shared", 1000)
STOCK_TWICE = Side("Dramatiq, one queue, 2 processes", False, "shared", 1000, 2)
STOCK_QUEUES = [Side(f"Dramatiq, {n} queues", False, "queues", n) for n in (100, 300)]
BULL = Side("BullMQ, 1000 queues", True, "bullmq-shared", 1000)
BULL_OWN = Side("BullMQ, 1000 queues, own connections", True, "bullmq-own", 1000)
BULL_FEW = Side("BullMQ, 100 queues", True, "bullmq-shared", 100)
BULL_ONE = Side("BullMQ, one queue", False, "bullmq-one", 1000)
PATIENCE_SECONDS = 300


class Bench:
    """One server, and what is measured on it."""

    def __init__(self, url: str, chosen: argparse.Namespace) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, socket_timeout=None)
        self.jobs: int = chosen.jobs
        self.samples: int = chosen.samples

    def _memory(self) -> float:
        return float(self.client.info("memory")["used_memory"]) / 1e6

    def _server_cpu(self) -> float:
        """Seconds of CPU that the server has used."""
        used = self.client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def burst(self, side: Side, *, rest: bool) -> dict[str, float]:
        """A burst; with `rest` also what the side needs afterwards, and its start latency."""
        self.client.flushall()
        empty = self._memory()
        jobs = max(self.jobs, side.jobs)
        side.run("fill", self.url, jobs)
        workers = Workers(side, self.url)
        try:
            before, server_before = sum(each["cpu"] for each in workers.report()), self._server_cpu()
            workers.go()
            reports = self._wait(side, workers, jobs)
            server_cpu = self._server_cpu() - server_before
            seconds = max(each["last"] for each in reports) - min(each["first"] for each in reports if each["jobs"])
            found = {
                "jobs_per_second": jobs / seconds,
                "worker_cpu_us_per_job": 1e6 * (sum(each["cpu"] for each in reports) - before) / jobs,
                "server_cpu_us_per_job": 1e6 * server_cpu / jobs,
            }
            if rest:
                found.update(self._rest(workers, empty))
                found.update(self._latency(side))
        finally:
            workers.end()
        return found

    def _wait(self, side: Side, workers: Workers, jobs: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.1)
            reports = workers.report()
            if sum(each["jobs"] for each in reports) >= jobs:
                return reports
        raise SystemExit(f"{side.name}: the burst was not over after {PATIENCE_SECONDS} s")

    def _rest(self, workers: Workers, empty: float) -> dict[str, float]:
        time.sleep(1.0)
        _, _, before = workers.inspect()
        time.sleep(3.0)
        memory, threads, after = workers.inspect()
        return {
            "worker_mb": memory,
            "server_mb": max(0.0, self._memory() - empty),
            "threads": threads,
            "connections": len(self.client.client_list()) - 1,
            "idle_cpu_percent": 100 * (after - before) / 3.0,
        }

    def _latency(self, side: Side) -> dict[str, float]:
        self.client.delete(STARTED)
        delays = sorted(json.loads(side.run("send", self.url, self.samples))[self.samples // 10 :])
        return {
            "start_p50_ms": 1000 * statistics.median(delays),
            "start_p99_ms": 1000 * delays[int(len(delays) * 0.99) - 1],
        }

    def bytes_of_idle_accounts(self, accounts: int = 10_000) -> float:
        """The server's bytes for a tenant queue that had a message and has none."""
        self.client.flushall()
        side = Side("", True, "tenant", accounts)
        workers = Workers(side, self.url)
        empty = self.client.info("memory")["used_memory"]
        side.run("fill", self.url, accounts)
        workers.go()
        self._wait(side, workers, accounts)
        time.sleep(1.0)
        found = (self.client.info("memory")["used_memory"] - empty) / accounts
        workers.end()
        return float(found)

    def quiet_beside_noisy(self, side: Side, noisy_jobs: int = 20_000, job_seconds: float = 0.005) -> list[float]:
        """Seconds that 50 accounts' single messages wait while another account has a backlog."""
        self.client.flushall()
        broker = make_broker(side.kind, self.url)
        broker.declare_queue("bench")
        workers = Workers(side, self.url)
        workers.go()
        self._ping(side, broker, range(100, 200))  # each thread opens its connection for reports
        if isinstance(broker, TenantBroker):
            broker.enqueue_many(
                Entry(message_of(side.kind, 0, "nap", job_seconds), str(number)) for number in range(noisy_jobs)
            )
        else:
            for _ in range(noisy_jobs):
                broker.enqueue(message_of(side.kind, 0, "nap", job_seconds))
        time.sleep(1.0)
        delays = self._ping(side, broker, range(1, 51))
        workers.kill()
        broker.close()
        return delays

    def _ping(self, side: Side, broker: Any, accounts: range) -> list[float]:
        """Seconds from the send to the start of a message for each of the accounts, ascending."""
        for account in accounts:
            broker.enqueue(message_of(side.kind, account, "ping", time.monotonic()))
        delays: list[float] = []
        while len(delays) < len(accounts):
            popped = self.client.blpop([STARTED], timeout=PATIENCE_SECONDS)
            if popped is None:
                raise SystemExit("a quiet account's message was never started")
            delays.append(float(popped[1]))
        return sorted(delays)

    def recovery(self) -> float:
        """Seconds from `kill -9` of a worker to the next start of the message that it ran (lease: 15 s)."""
        self.client.flushall()
        broker = TenantBroker(url=self.url)
        broker.enqueue_once(Entry(message_of("tenant", 0, "hold"), "1"))
        first = Workers(OURS, self.url)
        first.go()
        self.client.blpop([STARTED], timeout=30)
        second = Workers(OURS, self.url)
        second.go()
        time.sleep(1.0)
        first.kill()
        killed_at = time.monotonic()
        popped = self.client.blpop([STARTED], timeout=60)
        if popped is None:
            raise SystemExit("the killed worker's message was never started again")
        second.kill()
        broker.close()
        return float(popped[1]) - killed_at


def sides_of(chosen: argparse.Namespace, bullmq: bool) -> list[Side]:
    sides = [OURS, OURS_TWICE, STOCK]
    if bullmq:
        sides += [OURS_WIDE, BULL, OURS_WIDE_TWICE]
    if not chosen.quick:
        sides += [STOCK_TWICE, *STOCK_QUEUES, OURS_LONG, OURS_LARGE]
        if bullmq:
            sides += [BULL_FEW, BULL_OWN, BULL_ONE]
    return sides


def compare(bench: Bench, sides: list[Side], rounds: int) -> dict[str, dict[str, Any]]:
    """Bursts of all sides in turn, `rounds` times; the best of each, and every round's rate."""
    results: dict[str, dict[str, Any]] = {}
    for round_number in range(rounds):
        for side in sides:
            found: dict[str, Any] = dict(bench.burst(side, rest=round_number == 0))
            known = results.setdefault(side.name, {"serial": side.serial, "rounds": [], **found})
            known["rounds"].append(found["jobs_per_second"])
            print(f"round {round_number + 1}: {side.name}: {found['jobs_per_second']:.0f} jobs/s", file=sys.stderr)
            for name, best in (
                ("jobs_per_second", max),
                ("worker_cpu_us_per_job", min),
                ("server_cpu_us_per_job", min),
            ):
                known[name] = best(known[name], found[name])
    return results


def print_comparison(results: dict[str, dict[str, Any]], rounds: int) -> None:
    bull, stock = results.get(BULL.name), results[STOCK.name]
    print(
        f"Burst of no-op jobs, best of {rounds} interleaved rounds; one worker process of {THREADS} threads if not said"
    )
    head = f"{'':37} {'serial':>6} {'jobs/s':>7} {'x Dram.':>7} {'x Bull':>6} {'worker':>7} {'server':>7} {'conn':>5}"
    print(f"{head} {'thr.':>5} {'idle':>6} {'p50':>7} {'p99':>7} {'worker':>8} {'server':>8}")
    for name, row in results.items():
        rate = row["jobs_per_second"]
        against = f"{rate / bull['jobs_per_second']:6.2f}" if bull else f"{'-':>6}"
        print(
            f"{name:37} {'yes' if row['serial'] else 'NO':>6} {rate:7.0f} {rate / stock['jobs_per_second']:7.2f} "
            f"{against} "
            f"{row['worker_mb']:4.0f} MB {row['server_mb']:4.0f} MB {row['connections']:5.0f} {row['threads']:5.0f} "
            f"{row['idle_cpu_percent']:4.1f} % {row['start_p50_ms']:4.1f} ms {row['start_p99_ms']:4.1f} ms "
            f"{row['worker_cpu_us_per_job']:5.0f} µs {row['server_cpu_us_per_job']:5.0f} µs"
        )


def print_bars(rows: list[tuple[str, float, str, float]]) -> None:
    print(f"\n{'bar':62} {'found':>9}   {'wanted':>9}")
    for name, found, sign, wanted in rows:
        kept = found >= wanted if sign == ">=" else found <= wanted
        print(f"{name:62} {found:9.2f} {sign} {wanted:9.2f}  {'kept' if kept else 'MISSED'}")


def bars_of(results: dict[str, dict[str, Any]]) -> list[tuple[str, float, str, float]]:
    ours, stock = results[OURS.name], results[STOCK.name]
    rate = ours["jobs_per_second"]
    rows = [("throughput, 1,000 accounts, x Dramatiq on one queue", rate / stock["jobs_per_second"], ">=", 2.0)]
    large = results.get(OURS_LARGE.name)
    if large:
        many = large["jobs_per_second"]
        rows.append(
            ("throughput, 100,000 accounts, x Dramatiq on one queue", many / stock["jobs_per_second"], ">=", 2.0)
        )
        few = results[OURS_LONG.name]["jobs_per_second"]
        rows.append(("throughput, 100,000 accounts, x as many jobs of 1,000", many / few, ">=", 0.9))
    rows.append(("start on an idle worker, p50, ms", ours["start_p50_ms"], "<=", 2.0))
    rows.append(("start on an idle worker, p99, ms", ours["start_p99_ms"], "<=", 10.0))
    bull = results.get(BULL.name)
    if bull:
        wide = results[OURS_WIDE.name]
        memory, theirs = (each["worker_mb"] + each["server_mb"] for each in (wide, bull))
        one, both = (results[each.name]["jobs_per_second"] for each in (OURS_WIDE, OURS_WIDE_TWICE))
        theirs_rate = bull["jobs_per_second"]
        rows.append((f"throughput, {WIDE_THREADS} threads, x BullMQ with 1,000 queues", one / theirs_rate, ">=", 1.0))
        rows.append((f"the same, two processes of {WIDE_THREADS} threads", both / theirs_rate, ">=", 1.5))
        rows.append(("memory of worker and server, x BullMQ with 1,000 queues", memory / theirs, "<=", 0.2))
    connections = max(row["connections"] for name, row in results.items() if name.startswith(OURS.name))
    rows.append(("connections of our worker processes, the most of any side", connections, "<=", 24))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the sides that a bar names, at 1,000 accounts")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", choices=["sides", "ours"])
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    missing = install_bullmq()
    if missing:
        print(f"BullMQ is left out: {missing}")
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder), port=0) as server:
        bench = Bench(server.url, chosen)
        bench.client.config_set("appendonly", "no")
        results = measure(bench, chosen, missing is None)
    results.update(cores=os.cpu_count(), jobs=chosen.jobs, threads=THREADS, packages=PACKAGES, load=os.getloadavg())
    chosen.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def measure(bench: Bench, chosen: argparse.Namespace, bullmq: bool) -> dict[str, Any]:
    results: dict[str, Any] = {}
    rows: list[tuple[str, float, str, float]] = []
    if chosen.only in (None, "sides"):
        results["sides"] = compare(bench, sides_of(chosen, bullmq), chosen.rounds)
        print_comparison(results["sides"], chosen.rounds)
        rows += bars_of(results["sides"])
    if chosen.only in (None, "ours"):
        quiet, behind = bench.quiet_beside_noisy(OURS), bench.quiet_beside_noisy(STOCK)
        results["quiet_beside_noisy_seconds"] = {"onelane": quiet, "dramatiq": behind}
        results["idle_account_bytes"] = bench.bytes_of_idle_accounts()
        results["recovery_seconds"] = bench.recovery()
        rows.append(("quiet accounts beside a noisy one, p99, lengths of its jobs", quiet[-1] / 0.005, "<=", 2.0))
        rows.append(("the same, x Dramatiq on one queue", quiet[-1] / behind[-1], "<=", 1.0))
        rows.append(("Redis for an idle account, bytes", results["idle_account_bytes"], "<=", 1024))
        rows.append(("next start after kill -9 (lease 15 s), s", results["recovery_seconds"], "<=", 16.0))
    print_bars(rows)
    results["bars"] = [dict(zip(("bar", "found", "sign", "wanted"), row, strict=True)) for row in rows]
    return results


if __name__ == "__main__":
    main()
