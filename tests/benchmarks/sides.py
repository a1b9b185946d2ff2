"""The sides of the broker benchmark, each as processes that speak lines (see `python_side.py`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests import ROOT

HERE = Path(__file__).resolve().parent

#: Threads of a Python worker process; what a BullMQ worker on one shared queue runs at a time.
THREADS = 8
#: Threads of ours where the other side is BullMQ with a worker for each account, which runs 1,000 jobs at a time.
WIDE_THREADS = 64
#: Installed beside this file, into a folder that git ignores.
PACKAGES = ("bullmq@6.7.0", "ioredis@5.11.1")


def install_bullmq() -> str | None:
    """Installs the rival with npm where it is missing. Returns why it cannot be measured, or None."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    wanted = dict(package.rsplit("@", 1) for package in PACKAGES)
    found = {name: HERE / "node_modules" / name / "package.json" for name in wanted}
    if all(path.exists() and json.loads(path.read_text())["version"] == wanted[name] for name, path in found.items()):
        return None
    command = ["npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", str(HERE)]
    done = subprocess.run([*command, *PACKAGES], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"npm could not install {' '.join(PACKAGES)}: {done.stderr[-300:]}"


@dataclass(frozen=True)
class Side:
    """What is measured: a broker, the way it is used, and how many accounts and worker processes."""

    name: str
    #: For the reader: whether one account's jobs run one at a time and in order.
    serial: bool
    #: `tenant`, `shared`, `queues` (see python_side.py), or `bullmq` with its connections.
    kind: str
    accounts: int
    processes: int = 1
    #: Of each Python worker process.
    threads: int = THREADS
    #: Of a burst, at least.
    jobs: int = 0

    def command(self, mode: str, url: str, number: int) -> list[str]:
        if not self.kind.startswith("bullmq"):
            program = [sys.executable, "-m", "tests.benchmarks.python_side"]
            return [*program, mode, self.kind, url, str(self.accounts), str(number)]
        one_queue = self.kind == "bullmq-one"
        command = ["node", str(HERE / "bullmq_side.cjs"), mode, url, "1" if one_queue else str(self.accounts)]
        if mode != "work":
            return [*command, str(number)]
        return [*command, str(THREADS) if one_queue else "1", "own" if self.kind == "bullmq-own" else "shared"]

    def run(self, mode: str, url: str, number: int) -> str:
        """Runs a mode to its end; what it printed."""
        return subprocess.run(
            self.command(mode, url, number), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


class Workers:
    """The worker processes of a side."""

    def __init__(self, side: Side, url: str) -> None:
        self._processes = [
            subprocess.Popen(
                side.command("work", url, side.threads),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "NODE_NO_WARNINGS": "1"},
            )
            for _ in range(side.processes)
        ]
        for process in self._processes:
            if self._read(process) != "ready\n":
                raise SystemExit(f"a worker of {side.name!r} did not start")

    def _read(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def _write(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()

    def go(self) -> None:
        self._write("go\n")

    def report(self) -> list[dict[str, Any]]:
        self._write("report\n")
        return [json.loads(self._read(process)) for process in self._processes]

    def inspect(self) -> tuple[float, int, float]:
        """Resident MB, threads, seconds of CPU used, over all processes."""
        seen = [psutil.Process(process.pid) for process in self._processes]
        cpu = sum(times.user + times.system for times in (each.cpu_times() for each in seen))
        return sum(each.memory_info().rss for each in seen) / 1e6, sum(each.num_threads() for each in seen), cpu

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
        self.end()

    def end(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait()
            process.stdout.close()
