"""2,000 open event streams in one control plane: `python -m tests.benchmarks.streams [--streams N] [--seconds N]`.

Nine streams in ten follow a job, one in ten an account. While nothing happens, and then while jobs change at a steady
rate, it prints threads, memory, processor time and transactions of the database a second, and how long a datum takes
from its commit to the reader (on one machine, so on one clock). At last, one reader follows a busy account and does not
read: what it costs the others, and how much memory is kept for it. On PostgreSQL; a Valkey carries the bell.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from pydantic import SecretStr

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.migrations import migrate
from tenants.queues import EmbeddedValkey
from tenants.secrets.sealing import new_key
from tenants.store import events
from tenants.store.events import NewEvent
from tenants.store.jobs.create import JobPlan
from tests import ROOT
from tests.crashes.report import quantile
from tests.support.servers import free_port

from .posting import ADMIN_KEY, serves
from .whole_path import database_of, postgres, wait_until

ACCOUNTS = 200
#: Changes a second while latency is measured.
RATE = 100.0
#: What is still read for the last streams after their snapshots is over by then.
SETTLING_SECONDS = 10.0
BUSY = "busy"
#: Events for the reader that does not read, and how large each is: far more than any buffer in progress.
UNREAD, UNREAD_BYTES = 6_000, 2_000


@dataclass
class Service:
    """A control plane, and this process' own way into its database."""

    runtime: Runtime
    port: int
    process: psutil.Process
    url: str

    def transactions(self) -> int:
        with psycopg.connect(
            self.url.replace("postgresql+psycopg://", "postgresql://", 1), autocommit=True
        ) as connection:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])


@dataclass
class Readers:
    """What the readers of all streams saw."""

    latencies: list[float] = field(default_factory=list)
    snapshots: int = 0
    heartbeats: int = 0


@contextlib.contextmanager
def service(server: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder) / "valkey") as valkey:
        url = database_of(server, "streams").replace("postgresql://", "postgresql+psycopg://", 1)
        secret, port = new_key(), free_port()
        settings = Settings(
            database_url=url,
            redis_url=valkey.url,
            data_dir=Path(folder),
            secret_key=SecretStr(secret),
            admin_key=SecretStr(ADMIN_KEY),
            pipelines=("tests.benchmarks.pipelines",),
        )
        runtime = Runtime(settings)
        migrate(runtime.database)
        environment = {
            "ONELANE_DATABASE_URL": url,
            "ONELANE_REDIS_URL": valkey.url,
            "ONELANE_DATA_DIR": folder,
            "ONELANE_SECRET_KEY": secret,
            "ONELANE_ADMIN_KEY": ADMIN_KEY,
            "ONELANE_PIPELINES": "tests.benchmarks.pipelines",
            "ONELANE_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "orchestrator.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
        try:
            wait_until(lambda: process.poll() is not None or serves(port), "the control plane")
            yield Service(runtime, port, psutil.Process(process.pid), url)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()
            process.wait()
            runtime.close()


async def _follow(port: int, path: str, readers: Readers) -> None:
    """Read a stream to its end, or until it is cancelled."""
    async for line in _lines(port, path):
        if line.startswith(b"event: snapshot"):
            readers.snapshots += 1
        elif line.startswith(b":"):
            readers.heartbeats += 1
        elif line.startswith(b"data: "):
            at = json.loads(line[6:]).get("at")
            if at is not None:
                readers.latencies.append(time.time() - at)


async def _lines(port: int, path: str) -> AsyncIterator[bytes]:
    reader, writer = await _asked(port, path)
    try:
        while line := await reader.readline():
            yield line
    finally:
        writer.close()


async def _asked(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode())
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"{path} was answered {status!r}")
    return reader, writer


def _change(service: Service, account: str, job_id: str, **more: Any) -> None:
    data = {"step": "noop", "progress": 50, "note": "", **more}
    service.runtime.database.write(
        lambda connection: events.record(connection, NewEvent(account, job_id, "progress", {**data, "at": time.time()}))
    )


async def _measure(service: Service, readers: Readers, what: str, seconds: float, jobs: list[tuple[str, str]]) -> None:
    """Let jobs change for so long (none: let nothing happen) and print what it took."""
    readers.latencies.clear()
    before, spent = await asyncio.to_thread(service.transactions), service.process.cpu_times()
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        if jobs and sent < passed * RATE:
            account, job_id = jobs[(sent * 7919) % len(jobs)]
            await asyncio.to_thread(_change, service, account, job_id)
            sent += 1
        else:
            await asyncio.sleep(0.005)
    took = time.monotonic() - began
    await asyncio.sleep(2.0)
    after, now = await asyncio.to_thread(service.transactions), service.process.cpu_times()
    processor = (now.user + now.system - spent.user - spent.system) / (took + 2.0)
    memory = service.process.memory_info().rss / 2**20
    reported = f"{what:<22} {service.process.num_threads():>7} {memory:>8.0f} {processor:>8.2f}"
    reported += f" {(after - before) / (took + 2.0):>10.0f}"
    if readers.latencies:
        p50, p99 = (quantile(readers.latencies, at) * 1000 for at in (0.5, 0.99))
        reported += f" {sent / took:>9.0f} {len(readers.latencies):>7} {p50:>7.1f} {p99:>7.1f}"
    print(reported, flush=True)


async def _run(service: Service, streams: int, seconds: float) -> None:
    jobs = []
    for number in range(streams):
        account = f"account-{number % ACCOUNTS}"
        job, _ = await asyncio.to_thread(service.runtime.jobs.create, account, JobPlan("one", {}, delay=86_400.0))
        jobs.append((account, job["id"]))
    heads = ("threads", "MiB", "cpu", "tx/s", "changes/s", "data", "p50 ms", "p99 ms")
    widths = (7, 8, 8, 10, 9, 7, 7, 7)
    print(" " * 22, *(head.rjust(width) for head, width in zip(heads, widths, strict=True)))
    readers = Readers()
    await _measure(service, readers, "no streams", 3.0, [])
    began = time.monotonic()
    opened = []
    for number in range(streams):
        account, job_id = jobs[number]
        path = f"/v1/accounts/{account}/events" if number % 10 == 0 else f"/v1/jobs/{job_id}/events"
        opened.append(asyncio.create_task(_follow(service.port, path, readers)))
        if number % 50 == 49:
            await asyncio.sleep(0.05)
    wanted = streams - len(range(0, streams, 10))
    while readers.snapshots < wanted:
        await asyncio.sleep(0.05)
        if time.monotonic() - began > 120:
            raise SystemExit(f"{readers.snapshots} of {wanted} streams began within 120 s")
    print(f"{streams} streams were opened in {time.monotonic() - began:.1f} s", flush=True)
    await asyncio.sleep(SETTLING_SECONDS)
    await _measure(service, readers, "streams, nothing new", seconds, [])
    await _measure(service, readers, f"streams, {RATE:.0f} changes/s", seconds, jobs)
    await _slow_reader(service, readers, seconds, jobs)
    gone = sum(task.done() for task in opened)
    for task in opened:
        task.cancel()
    await asyncio.gather(*opened, return_exceptions=True)
    print(f"{gone} streams ended by themselves; {readers.heartbeats} heartbeats came")


async def _slow_reader(service: Service, readers: Readers, seconds: float, jobs: list[tuple[str, str]]) -> None:
    job, _ = await asyncio.to_thread(service.runtime.jobs.create, BUSY, JobPlan("one", {}, delay=86_400.0))
    _, writer = await _asked(service.port, f"/v1/accounts/{BUSY}/events")
    memory = service.process.memory_info().rss

    def flood() -> None:
        data = {"step": "noop", "progress": 1, "note": "x" * UNREAD_BYTES}
        for _ in range(UNREAD // 200):
            new = [NewEvent(BUSY, job["id"], "progress", data)] * 200
            service.runtime.database.write(lambda connection, new=new: events.record(connection, *new))  # type: ignore[misc]

    flooding = asyncio.create_task(asyncio.to_thread(flood))
    await _measure(service, readers, "one reader is stuck", seconds, jobs)
    await flooding
    grown = (service.process.memory_info().rss - memory) / 2**20
    print(f"{UNREAD} events of {UNREAD_BYTES} bytes that it does not read made the process {grown:+.0f} MiB larger")
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(most, given.streams * 2 + 500) if most != resource.RLIM_INFINITY else given.streams * 2 + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))  # the control plane has it from us
    with postgres() as server, service(server) as started:
        asyncio.run(_run(started, given.streams, given.seconds))


if __name__ == "__main__":
    main()
