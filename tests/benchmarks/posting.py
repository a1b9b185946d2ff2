"""What a POST costs: `python -m tests.benchmarks.posting [--seconds N]`. On PostgreSQL and on SQLite, each alone:

- latency of `POST /v1/accounts/{account}/jobs` at 200 a second. The load is open: each request has its time, whether
  or not the ones before it were answered, and its latency counts from that time. A server that stalls is therefore
  charged with everybody who waited meanwhile (no coordinated omission). The first seconds warm up and do not count.
- jobs a second through `POST …/jobs:batch`, several clients at once, 1,000 jobs in each call and 100 in each call.

Before them the same posts go to a bare application, which does nothing on a thread of its own and answers: what the
machine, HTTP, the event loop and one hand-off cost by themselves in the same minute.

The real control plane runs in a process of its own, with its loops and a Valkey; no worker, so the machine's processors
are the server's and this client's. Every answer must be a 202, or the run fails. Prints a table with DESIGN's bars and
writes `posting.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.migrations import migrate
from tenants.queues import EmbeddedValkey
from tenants.secrets.sealing import new_key
from tests import ROOT
from tests.crashes.report import quantile
from tests.support.servers import free_port

from .broker import print_bars
from .whole_path import database_of, postgres, wait_until

ADMIN_KEY = "the-admin-key-of-the-benchmark-0001"
ACCOUNTS = 200
RATE = 200.0
#: Requests that may be under way at once: a stall of this many over the rate, in seconds, delays no request's sending.
SENDERS = 64
BATCH_CLIENTS = 4
#: Starlette under uvicorn, as little of it as there can be.
BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

async def post(request):
    await request.json()
    return JSONResponse(await run_in_threadpool(dict, id="0" * 36), 202)

async def ready(request):
    return JSONResponse({})

routes = [Route("/v1/accounts/{account}/jobs", post, methods=["POST"]), Route("/readyz", ready)]
uvicorn.run(Starlette(routes=routes), port=int(sys.argv[1]), log_level="warning")
"""
#: DESIGN's bars.
BAR_P99_MS = 25.0
BAR_BATCH_RATE = 5000.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: when it was due after the first one, and how long after that its answer was there. Seconds."""

    due: float
    latency: float


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A server under test."""

    port: int
    process: psutil.Process

    def processor_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: bytes) -> None:
        """Send and read the answer whole.

        Raises:
            SystemExit: it is not a 202.
        """
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 202:
            raise SystemExit(f"POST {path} was answered {answer.status}: {text[:500]!r}")

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def control_plane(database_url: str) -> Iterator[ControlPlane]:
    """A control plane that serves, over a Valkey of its own."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder) / "valkey") as valkey:
        secret, port = new_key(), free_port()
        settings = {
            "database_url": database_url,
            "redis_url": valkey.url,
            "data_dir": folder,
            "secret_key": secret,
            "admin_key": ADMIN_KEY,
            "pipelines": "tests.benchmarks.pipelines",
            "log_level": "warning",
        }
        _migrate(database_url, valkey.url, folder, secret)
        environment = {f"ONELANE_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "orchestrator.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
        with _served(command, port, environment) as server:
            yield server


@contextlib.contextmanager
def bare_application() -> Iterator[ControlPlane]:
    port = free_port()
    with _served([sys.executable, "-c", BARE, str(port)], port, {}) as server:
        yield server


@contextlib.contextmanager
def _served(command: list[str], port: int, environment: dict[str, str]) -> Iterator[ControlPlane]:
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        wait_until(lambda: server.poll() is not None or serves(port), "the server")
        if server.poll() is not None:
            raise SystemExit("the server ended by itself")
        yield ControlPlane(port, psutil.Process(server.pid))
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _migrate(database_url: str, redis_url: str, folder: str, secret: str) -> None:
    runtime = Runtime(
        Settings(
            database_url=database_url,
            redis_url=redis_url,
            data_dir=Path(folder),
            secret_key=SecretStr(secret),
            pipelines=("tests.benchmarks.pipelines",),
        )
    )
    migrate(runtime.database)
    runtime.close()


def serves(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def in_threads(number: int, work: Callable[[], None]) -> None:
    """Run `work` in so many threads at once; the first failure of any ends the run."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def latencies(port: int, *, rate: float, seconds: float) -> list[Answered]:
    """Post at the rate for so long, whatever the answers take."""
    body = json.dumps({"pipeline": "one", "input": {}}).encode()
    numbers = itertools.count()
    answered: list[Answered] = []
    began = time.perf_counter() + 0.1

    def send() -> None:
        client = Client(port)
        # next() of a count is one step for all threads; each takes the request that is due next.
        while (number := next(numbers)) < rate * seconds:
            due = number / rate
            time.sleep(max(0.0, began + due - time.perf_counter()))
            client.post(f"/v1/accounts/account-{number % ACCOUNTS}/jobs", body)
            answered.append(Answered(due, time.perf_counter() - began - due))
        client.close()

    in_threads(SENDERS, send)
    return answered


def batch_rate(port: int, *, jobs: int, size: int) -> float:
    """Jobs a second through the batch call."""
    body = json.dumps({"jobs": [{"pipeline": "one", "input": {}}] * size}).encode()
    numbers = itertools.count()
    calls = max(BATCH_CLIENTS, jobs // size)

    def send() -> None:
        client = Client(port)
        while (number := next(numbers)) < calls:
            client.post(f"/v1/accounts/account-{number % ACCOUNTS}/jobs:batch", body)
        client.close()

    began = time.perf_counter()
    in_threads(BATCH_CLIENTS, send)
    return calls * size / (time.perf_counter() - began)


def _stolen_seconds() -> float:
    """For which this machine's processors ran for other guests of its host: a stall of that kind is nobody's here."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def measure_posts(server: ControlPlane, chosen: argparse.Namespace) -> dict[str, float]:
    used, stolen = server.processor_seconds(), _stolen_seconds()
    answered = latencies(server.port, rate=RATE, seconds=chosen.warm_up + chosen.seconds)
    used, stolen = server.processor_seconds() - used, _stolen_seconds() - stolen
    counted = [1000 * each.latency for each in answered if each.due >= chosen.warm_up]
    span = max(each.due + each.latency for each in answered)
    return {
        "posts": len(counted),
        "posts_per_second": len(answered) / span,
        "post_p50_ms": quantile(counted, 0.50),
        "post_p99_ms": quantile(counted, 0.99),
        "post_max_ms": max(counted),
        "processor_ms_per_post": 1000 * used / len(answered),
        "percent_of_a_processor_stolen": 100 * stolen / span,
    }


def measure(database_url: str, chosen: argparse.Namespace) -> dict[str, float]:
    with control_plane(database_url) as server:
        return measure_posts(server, chosen) | {
            "batch_of_1000_jobs_per_second": batch_rate(server.port, jobs=chosen.jobs, size=1000),
            "batch_of_100_jobs_per_second": batch_rate(server.port, jobs=chosen.jobs // 2, size=100),
        }


def print_results(results: dict[str, dict[str, float]]) -> None:
    print(f"{'control plane alone, ' + str(os.cpu_count()) + ' processors':34}" + "".join(f"{n:>12}" for n in results))
    for name in next(reversed(results.values())):
        reported = (f"{each[name]:.1f}" if name in each else "" for each in results.values())
        print(f"{name.replace('_', ' '):34}" + "".join(f"{each:>12}" for each in reported))
    bare = results["bare"]["post_p99_ms"]
    for name in list(results)[1:]:
        print(f"p99 over the bare application's, {name}: {results[name]['post_p99_ms'] / bare:.1f}x")
    rows = []
    for name, found in list(results.items())[1:]:
        rows.append((f"POST at {RATE:.0f}/s, p99, ms, {name}", found["post_p99_ms"], "<=", BAR_P99_MS))
        rate = found["batch_of_1000_jobs_per_second"]
        rows.append((f"batch call, jobs a second, {name}", rate, ">=", BAR_BATCH_RATE))
    print_bars(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of posts that count")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds of posts that do not")
    parser.add_argument(
        "--jobs", type=int, default=50_000, help="made in batches of 1,000; half as many in those of 100"
    )
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with bare_application() as bare:
        results["bare"] = measure_posts(bare, chosen)
    with postgres() as server:
        results["PostgreSQL"] = measure(database_of(server, "posting"), chosen)
    with tempfile.TemporaryDirectory() as folder:
        results["SQLite"] = measure(f"sqlite:///{folder}/onelane.db", chosen)
    print_results(results)
    reported: dict[str, Any] = {"rate": RATE, "cores": os.cpu_count(), "load": os.getloadavg(), **results}
    chosen.json.write_text(json.dumps(reported, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
