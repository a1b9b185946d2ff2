"""A running service without its HTTP face: real database, real Valkey, worker processes, loops in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.loops.service import Loops
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.secrets.sealing import new_key
from tenants.store.jobs.create import JobPlan
from tests import ROOT
from tests.support.servers import ValkeyProcess, free_port, start_valkey

#: How long a test waits for what has to come: a bound for a machine that is starved, not a measure.
PATIENCE_SECONDS = 150.0


class Service:
    """One installation; `work` starts a worker process, `run` makes a job and waits for its end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = Runtime(settings)
        self.loops = Loops(self.runtime)
        self.workers: list[subprocess.Popen[bytes]] = []

    def work(self, threads: int = 4, **variables: str) -> subprocess.Popen[bytes]:
        """A worker process; it serves when `workers` of the database names it."""
        known = set(self.live_workers())
        secret = self.settings.secret_key
        assert secret is not None
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ONELANE_")},
            "ONELANE_DATABASE_URL": self.settings.database_url,
            "ONELANE_REDIS_URL": str(self.settings.redis_url),
            "ONELANE_DATA_DIR": str(self.settings.data_dir),
            "ONELANE_SECRET_KEY": secret.get_secret_value(),
            "ONELANE_PIPELINES": "tests.orchestrator.pipelines",
            "ONELANE_THREADS": str(threads),
            "ONELANE_SHUTDOWN_GRACE_SECONDS": str(self.settings.shutdown_grace_seconds),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        log = (self.settings.data_dir / "worker.log").open("ab")
        worker = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.worker.process"], env=environment, stdout=log, stderr=log
        )
        log.close()
        self.workers.append(worker)
        self.until(lambda: bool(set(self.live_workers()) - known) or worker.poll() is not None, "the worker to serve")
        assert worker.poll() is None, self.log()
        return worker

    def live_workers(self) -> list[str]:
        from tenants.store import workers

        return [row["id"] for row in self.runtime.database.read(workers.live)]

    def make(self, pipeline: str, account: str = "acme", *, do: str = "return", **job: Any) -> str:
        folder = str(self.settings.data_dir / "notes")
        made, _ = self.runtime.jobs.create(account, JobPlan(pipeline, {"do": do, "folder": folder}, **job))
        return str(made["id"])

    def run(self, pipeline: str, account: str = "acme", **orders: Any) -> dict[str, Any]:
        return self.wait(self.make(pipeline, account, **orders))

    def wait(self, job_id: str, *statuses: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The job, once it ended (or has one of `statuses`)."""
        wanted = statuses or ("completed", "failed", "timed_out", "cancelled", "expired")
        self.until(lambda: self.job(job_id)["status"] in wanted, f"job {job_id} to be {wanted}", seconds)
        return self.job(job_id)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.runtime.jobs.get(job_id)

    def began(self, job_id: str) -> bool:
        return (self.settings.data_dir / "notes" / f"{job_id}.log").exists()

    def go(self) -> None:
        """Let steps that wait go on."""
        (self.settings.data_dir / "notes" / "go").touch()

    def until(self, true: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until something is true; what it stands for is in another process, so this must ask again and again."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"waited {seconds} s for {what}\n{self.log()}"
            threading.Event().wait(0.02)

    def log(self) -> str:
        path = self.settings.data_dir / "worker.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    def close(self) -> None:
        self.loops.stop()
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait(timeout=60)
        self.runtime.close()


def make_service(database_url: str, redis_url: str, folder: Path) -> Service:
    """A service over these servers with its files in `folder`; the caller starts its loops and closes it."""
    return Service(
        Settings(
            database_url=database_url,
            redis_url=redis_url,
            data_dir=folder,
            secret_key=SecretStr(new_key()),
            pipelines=("tests.orchestrator.pipelines",),
            threads=4,
            shutdown_grace_seconds=1,
        )
    )


@pytest.fixture
def service(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "notes").mkdir()
    made = make_service(migrated_url, redis_url, tmp_path)
    made.loops.start()
    yield made
    made.close()


class Own:
    """A service with a Valkey of its own, which the test may do anything to."""

    def __init__(self, migrated_url: str, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.valkey = self.start()
        (folder / "notes").mkdir()
        self.service = make_service(migrated_url, self.valkey.url, folder)
        self.service.loops.start()

    def start(self, *options: str) -> ValkeyProcess:
        self.valkey = start_valkey(self.folder, *options, port=self.port)
        return self.valkey

    def close(self) -> None:
        if self.valkey.process.poll() is None:
            self.valkey.process.send_signal(signal.SIGCONT)
        self.service.close()
        self.valkey.stop()


@pytest.fixture
def own(migrated_url: str, tmp_path: Path) -> Iterator[Own]:
    made = Own(migrated_url, tmp_path)
    yield made
    made.close()
