"""A real `onelane up` in a process of its own, for tests of what it promises."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.client import Onelane, OnelaneClientError
from tests import ROOT
from tests.support.servers import free_port

START_SECONDS = 300


@dataclass
class RunningUp:
    """The process of `onelane up`, its data directory, and where its output goes."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def ports(self) -> dict[str, int]:
        """Where its parts listen."""
        found: dict[str, int] = json.loads((self.data_dir / "ports.json").read_text())
        return found

    def client(self) -> Onelane:
        key = (self.data_dir / "admin.key").read_text().strip()
        return Onelane(f"http://127.0.0.1:{self.ports()['api']}", key)

    def ready(self) -> bool:
        return "Ctrl-C stops it." in self.output()

    def family(self) -> list[psutil.Process]:
        """All processes below `up` now."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=90)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def environment(**settings: str) -> dict[str, str]:
    """The machine's variables without settings of ours, and these."""
    own = ("ONELANE_", "GEMINI_", "GOOGLE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | settings


def start_up(data_dir: Path, log: Path, settings: Mapping[str, str] | None = None) -> RunningUp:
    """Start `onelane up` on free ports with the quick pipelines; it may still be coming up."""
    chosen = {
        "ONELANE_PIPELINES": "tests.orchestrator.local.pipelines",
        "ONELANE_PORT": str(free_port()),
        "ONELANE_DEMO_BLOG_PORT": str(free_port()),
        "ONELANE_OFFLINE_MODEL_PORT": str(free_port()),
        "ONELANE_THREADS": "2",
        **(settings or {}),
    }
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", "up", "--data-dir", str(data_dir)],
            env=environment(**chosen),
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
        )
    return RunningUp(process, data_dir, log)


def wait_for(
    what: str, condition: Callable[[], bool], *, seconds: float = 90, running: RunningUp | None = None
) -> None:
    """Wait until the condition holds; the error shows what `up` wrote."""
    until = time.monotonic() + seconds
    while True:
        # Neither error is a failure yet: what the condition asks about is not there, or is just being restarted.
        with contextlib.suppress(OnelaneClientError, psutil.NoSuchProcess):
            if condition():
                return
        if time.monotonic() > until or (running is not None and running.process.poll() is not None):
            said = f"\n{running.output()}" if running is not None else ""
            raise AssertionError(f"{what}: not within {seconds} s{said}")
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)
