"""One installation under attack: database, Valkey, loops in this process, and workers that may be killed.

Unlike the fixture of the service's own tests it watches what a killed worker leaves behind: every process below it is
noted before the kill, and must be gone soon after.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import update

from orchestrator.loops.service import Loops
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.database.columns import db_now
from tenants.database.models import Account
from tenants.store.accounts.accounts import ensure_account
from tests import ROOT

#: How often something in another process is looked at again; nobody can signal it to us.
LOOK_SECONDS = 0.01


class NotInTime(AssertionError):
    """Something that had to happen did not, within its time."""


class WorkerEnded(AssertionError):
    """A worker ended by itself; the message has its log."""


def until(true: Callable[[], bool], what: str, seconds: float, describe: Callable[[], str] = str) -> None:
    """Wait until something in another process is true, looking again and again, for a bounded time.

    Raises:
        NotInTime: with `what`, and the text of `describe`.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise NotInTime(f"waited {seconds:g} s for {what}\n{describe()}")
        threading.Event().wait(LOOK_SECONDS)


@dataclass(slots=True)
class Worker:
    """A worker process of this installation."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True, slots=True)
class Remains:
    """The processes that stood below a worker when it was killed."""

    killed_at: float
    processes: tuple[psutil.Process, ...]

    def alive(self) -> list[psutil.Process]:
        return [each for each in self.processes if is_alive(each)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes of this machine that have to do with a data directory, by arguments, environment or place.

    Unlike a walk down the tree it finds those whose parent died, and those that left their session.
    """
    text = str(folder)
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # ended just now, or somebody else's
        if process.pid != os.getpid() and any(text in each for each in words):
            found.append(process)
    return found


class Installation:
    """Runs the loops here and workers as processes; close it to end all of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = Runtime(settings)
        self.loops = Loops(self.runtime)
        self.workers: list[Worker] = []
        self._started = 0
        self.loops.start()

    def environment(self, **more: str) -> dict[str, str]:
        """What a process of this installation gets; nothing of the caller's own settings."""
        secret = self.settings.secret_key
        assert secret is not None, "the caller gives one"
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ONELANE_")},
            "ONELANE_DATABASE_URL": self.settings.database_url,
            "ONELANE_REDIS_URL": str(self.settings.redis_url),
            "ONELANE_DATA_DIR": str(self.settings.data_dir),
            "ONELANE_SECRET_KEY": secret.get_secret_value(),
            "ONELANE_PIPELINES": ",".join(self.settings.pipelines),
            "ONELANE_ALLOWED_HOSTS": ",".join(self.settings.allowed_hosts),
            "ONELANE_THREADS": str(self.settings.threads),
            "ONELANE_SHUTDOWN_GRACE_SECONDS": str(self.settings.shutdown_grace_seconds),
            "PYTHONPATH": str(ROOT),
            **more,
        }

    def launch_worker(self, **environment: str) -> Worker:
        """Start a worker process; it does not serve yet."""
        self._started += 1
        path = self.settings.data_dir / f"worker-{self._started}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.worker.process"],
                env=self.environment(**environment),
                cwd=self.settings.data_dir,
                stdout=log,
                stderr=log,
            )
        worker = Worker(process, path)
        self.workers.append(worker)
        return worker

    def check_workers(self) -> None:
        """Raises `WorkerEnded` when a worker ended that nobody killed."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                raise WorkerEnded(f"worker {worker.pid} ended with {worker.process.returncode}:\n{self.log_of(worker)}")

    def kill(self, worker: Worker) -> Remains:
        """SIGKILL, to the worker alone. What it leaves behind is its guard's to end."""
        below = tuple(psutil.Process(worker.pid).children(recursive=True))
        worker.process.kill()
        killed_at = time.monotonic()
        worker.process.wait(timeout=60)
        self.workers.remove(worker)
        return Remains(killed_at, below)

    def worker_of(self, pid: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.pid == pid), None)

    def log_of(self, worker: Worker) -> str:
        return worker.log.read_text(errors="replace")[-4000:]

    def set_target(self, account: str, publisher: str, base_url: str, username: str, password: str) -> None:
        """Where an account publishes, and as whom."""
        target: dict[str, Any] = {"publisher": publisher, "base_url": base_url, "options": {}}
        accounts = Account.__table__

        def work(connection: Any) -> None:
            ensure_account(connection, account)
            connection.execute(
                update(accounts).where(accounts.c.id == account).values(target=target, updated_at=db_now())
            )

        self.runtime.database.write(work)
        self.runtime.sessions.put(account, storage_state=None, credentials={"username": username, "password": password})

    def close(self) -> None:
        self.loops.stop()
        for worker in list(self.workers):
            worker.process.terminate()
        for worker in self.workers:
            try:
                worker.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait(timeout=60)
        self.runtime.close()
