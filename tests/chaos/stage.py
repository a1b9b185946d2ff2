"""All processes of one chaos run: servers, proxy, observer, control planes, workers. The only place that starts any."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
from pydantic import SecretStr

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.database.transactions import Database
from tenants.migrations import migrate
from tenants.secrets.sealing import new_key
from tests import ROOT
from tests.crashes.installation import is_alive
from tests.crashes.postgres import Postgres, running_postgres
from tests.support.servers import ValkeyProcess, free_port, start_valkey

#: Exit statuses that are part of the service's word: an orderly stop, and a worker that may no longer run steps.
EXPECTED_EXITS = (0, 70)


@dataclass(slots=True)
class Part:
    """A control plane or a worker: restarted whenever it ended."""

    name: str
    module: str
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    #: Monotonic time before which it is not started again.
    not_before: float = 0.0
    #: True once an attack ended it, so that its exit is no surprise.
    struck: bool = False
    exits: Counter[int] = field(default_factory=Counter)
    #: How often it ended with 1 because it was started while a server that it needs was held from it.
    unserved: int = 0

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Stage:
    """See the module's docstring. Made by `running_stage`."""

    def __init__(
        self,
        folder: Path,
        kind: Literal["sqlite", "postgresql"],
        postgres: Postgres | None,
        *,
        workers: int,
        controls: int,
        threads: int,
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.postgres = postgres
        self.names = [f"worker-{number}" for number in range(workers)]
        self.control_names = [f"control-{number}" for number in range(controls)]
        self._valkey_folder = folder / "valkey"
        self._valkey_folder.mkdir()
        self.valkey: ValkeyProcess | None = None
        self.valkey_port = free_port()
        self.start_redis()
        self.observed = folder / "observed.jsonl"
        self._observer = self._helper("tests.chaos.observer", str(self.observed))
        self.observer_port = int(_first_line(self._observer))
        self._proxy = self._helper("tests.chaos.proxy", json.dumps(self._targets()))
        self._ports: dict[str, int] = json.loads(_first_line(self._proxy))
        self._secret = new_key()
        self._threads = threads
        database = Database(self.database_url(None))
        migrate(database)
        database.close()
        self.parts = [self._part(name, "orchestrator.worker.process") for name in self.names]
        self.parts += [self._part(name, "tests.chaos.control") for name in self.control_names]

    # --- addresses -----------------------------------------------------------------------------------------------

    def _targets(self) -> dict[str, int]:
        targets = {}
        for name in (*self.names, *self.control_names, "client"):
            targets[f"redis {name}"] = self.valkey_port
            if self.postgres is not None:
                targets[f"sql {name}"] = self.postgres.port
        return targets

    @property
    def routes(self) -> list[str]:
        return list(self._ports)

    def database_url(self, name: str | None) -> str:
        """The database as a part sees it; None: straight, for the judge."""
        if self.postgres is None:
            return f"sqlite:///{self.folder}/onelane.db"
        return self.postgres.at(self._ports[f"sql {name}"]) if name is not None else self.postgres.url

    def redis_url(self, name: str | None) -> str:
        port = self._ports[f"redis {name}"] if name is not None else self.valkey_port
        return f"redis://127.0.0.1:{port}/0"

    def settings(self, name: str | None) -> Settings:
        return Settings(
            database_url=self.database_url(name),
            redis_url=self.redis_url(name),
            data_dir=self.folder / "data",
            secret_key=SecretStr(self._secret),
            pipelines=("tests.chaos.pipelines",),
            threads=self._threads,
            shutdown_grace_seconds=1,
        )

    # --- parts ---------------------------------------------------------------------------------------------------

    def _part(self, name: str, module: str) -> Part:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("ONELANE_", "GEMINI_"))},
            "ONELANE_DATABASE_URL": self.database_url(name),
            "ONELANE_REDIS_URL": self.redis_url(name),
            "ONELANE_DATA_DIR": str(self.folder / "data"),
            "ONELANE_SECRET_KEY": self._secret,
            "ONELANE_PIPELINES": "tests.chaos.pipelines",
            "ONELANE_THREADS": str(self._threads),
            "ONELANE_SHUTDOWN_GRACE_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return Part(name, module, self.folder / f"{name}.log", environment)

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def keep(self, now: float) -> None:
        """Start every part that does not run and may be started."""
        for part in self.parts:
            if part.runs:
                continue
            if part.process is not None:
                code = part.process.returncode
                part.exits[code] += 1
                part.unserved += code == 1 and _last_line(part.log).startswith(_NO_SERVER)
                if part.process.stdin is not None:
                    part.process.stdin.close()
                part.process = None
                part.stopped = False
                if part.struck:
                    part.struck = False
                else:
                    part.not_before = now + 0.5
            if now >= part.not_before:
                with part.log.open("ab") as log:
                    part.process = subprocess.Popen(
                        [sys.executable, "-m", part.module],
                        env=part.environment,
                        cwd=self.folder,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                    )

    def signal(self, name: str, number: signal.Signals) -> int | None:
        """Send a signal to a part; gives back its pid, or None when it does not run."""
        part = self.part(name)
        if part.process is None or part.process.poll() is not None:
            return None
        part.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            part.struck = True
        if number in (signal.SIGSTOP, signal.SIGCONT):
            part.stopped = number is signal.SIGSTOP
        return part.process.pid

    # --- servers -------------------------------------------------------------------------------------------------

    def start_redis(self) -> None:
        if self.valkey is None:
            options = ("--appendonly", "yes", "--appendfsync", "everysec")
            self.valkey = start_valkey(self._valkey_folder, *options, port=self.valkey_port)

    def kill_redis(self, *, keep_data: bool) -> None:
        if self.valkey is not None:
            self.valkey.stop()
            self.valkey = None
        if not keep_data:
            shutil.rmtree(self._valkey_folder / "appendonlydir", ignore_errors=True)

    def attack_route(self, route: str, what: str) -> None:
        assert self._proxy.stdin is not None
        self._proxy.stdin.write(json.dumps({"route": route, "do": what}).encode() + b"\n")
        self._proxy.stdin.flush()

    def _helper(self, module: str, argument: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", module, argument],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    # --- the end -------------------------------------------------------------------------------------------------

    def stop_parts(self) -> list[str]:
        """Stop all parts in order; gives back those that had to be killed."""
        overstayed = []
        for part in self.parts:
            if part.runs:
                assert part.process is not None
                part.process.send_signal(signal.SIGCONT)
                part.process.terminate()
        for part in self.parts:
            if part.process is None:
                continue
            try:
                part.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                overstayed.append(part.name)
                part.process.kill()
                part.process.wait(timeout=60)
            if part.process.stdin is not None:
                part.process.stdin.close()
        return overstayed

    def close(self) -> None:
        self.stop_parts()
        for helper in (self._proxy, self._observer):
            assert helper.stdin is not None
            assert helper.stdout is not None
            helper.stdin.close()
            try:
                helper.wait(timeout=60)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait(timeout=60)
            helper.stdout.close()
        self.kill_redis(keep_data=True)

    def reported(self, lines: int = 15) -> str:
        """The last lines of every part's log."""
        reported = []
        for part in self.parts:
            if part.log.exists():
                last = part.log.read_text(errors="replace").splitlines()[-lines:]
                reported.append("\n".join([f"--- {part.name}", *last]))
        return "\n".join(reported)

    def step_processes(self) -> list[psutil.Process]:
        """Guards, zygotes, step supervisors and steps that still run although no worker does."""
        known: list[psutil.Process] = []
        scratch = str(self.folder)
        for process in psutil.process_iter():
            try:
                reported = [*process.cmdline(), *process.environ().values()]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if process.pid != os.getpid() and any(scratch in each for each in reported) and is_alive(process):
                known.append(process)
        return known


#: The exceptions with which a part says at its start that Redis or the database does not answer.
_NO_SERVER = (
    "dramatiq.errors.ConnectionClosed",
    "tenants.errors.Unavailable",
    "tenants.queues.errors.ServerUnreachable",
)


def _last_line(log: Path) -> str:
    """The last that is not indented: an error's text may go on over several lines."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else ""


def _first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()} before it said where it listens")
    return line


@contextlib.contextmanager
def running_stage(
    kind: Literal["sqlite", "postgresql"], *, workers: int, controls: int, threads: int
) -> Iterator[Stage]:
    """A stage with its servers, no part started yet; everything of it is gone at the end of the block."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onelane-chaos-")))
        (folder / "data").mkdir()
        postgres = stack.enter_context(running_postgres()) if kind == "postgresql" else None
        stage = Stage(folder, kind, postgres, workers=workers, controls=controls, threads=threads)
        stack.callback(stage.close)
        yield stage


@contextlib.contextmanager
def runtime_of(stage: Stage, name: str | None) -> Iterator[Runtime]:
    """A runtime in this process, through the routes of `name`."""
    runtime = Runtime(stage.settings(name))
    try:
        yield runtime
    finally:
        runtime.close()


def exits(parts: Sequence[Part]) -> dict[str, int]:
    """How the parts ended, by exit status."""
    total: Counter[int] = Counter()
    for part in parts:
        total += part.exits
    return {str(code): count for code, count in sorted(total.items())}


def log_lines(stage: Stage, text: str) -> list[str]:
    """Lines of any part's log that contain a text."""
    return [
        f"{part.name}: {line}"
        for part in stage.parts
        if part.log.exists()
        for line in part.log.read_text(errors="replace").splitlines()
        if text in line
    ]
