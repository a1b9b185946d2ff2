"""The worker dies, is stopped or loses its guard: no step outlives it, and nothing is left behind."""

from __future__ import annotations

import json
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

from orchestrator.isolation import guard_process
from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.guard import Guard, GuardLost
from orchestrator.isolation.outcome import Completed, Lost, TimedOut
from orchestrator.isolation.process_tree import ProcessId, identify, is_running
from orchestrator.isolation.sandbox import Sandbox, remove_abandoned
from orchestrator.isolation.step_run import OWN_SLACK_SECONDS
from tests import ROOT
from tests.orchestrator.isolation.sandbox_calls import STEPS, Running, eventually, step_call

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

STEPS_OF_ALL_KINDS = ("daemonize", "loop_in_regex", "ignore_everything")


class Worker:
    """A worker process, and what it said about itself."""

    def __init__(self, scratch: Path, silence: float, functions: tuple[str, ...]) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.orchestrator.isolation.worker_program",
            str(scratch),
            str(silence),
            *functions,
        ]
        self.log = scratch.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.own = self._processes("started")
        self.of_steps = [identity for _ in functions for identity in self._processes("step")]

    def read(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        message: dict[str, Any] = json.loads(line)
        assert message["event"] == event, line
        return message

    def _processes(self, event: str) -> list[ProcessId]:
        return [ProcessId(int(pid), started) for pid, started in self.read(event)["processes"]]

    def living(self) -> list[ProcessId]:
        return [identity for identity in (*self.of_steps, *self.own) if is_running(identity)]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers = []

    def start(silence: float = 8.0, functions: tuple[str, ...] = STEPS_OF_ALL_KINDS) -> Worker:
        worker = Worker(tmp_path / "scratch", silence, functions)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


def test_a_killed_worker_takes_everything_along(start_worker: Callable[..., Worker], tmp_path: Path) -> None:
    worker = start_worker()
    assert len(worker.of_steps) >= 7
    worker.process.kill()
    eventually(lambda: worker.living() == [], "all trees, the guard and the zygote have gone", 2)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_worker_and_zygote_killed_together(start_worker: Callable[..., Worker], tmp_path: Path) -> None:
    worker = start_worker()
    os.kill(worker.own[1].pid, signal.SIGKILL)
    worker.process.kill()
    eventually(lambda: worker.living() == [], "all have gone", 2)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_worker_and_guard_killed_together(start_worker: Callable[..., Worker], tmp_path: Path) -> None:
    """Supervisors and zygote notice the end of the worker themselves. The next worker removes the empty directory."""
    worker = start_worker()
    os.kill(worker.own[0].pid, signal.SIGKILL)
    worker.process.kill()
    eventually(lambda: worker.living() == [], "all have gone", 3)
    remove_abandoned(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_stopped_worker_loses_its_steps_after_the_silence(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(silence=3.0)
    started = time.monotonic()
    worker.process.send_signal(signal.SIGSTOP)
    eventually(lambda: not [i for i in worker.of_steps if is_running(i)], "the steps have gone", 6)
    assert time.monotonic() - started > 2.7, "the guard did not wait for the silence"
    worker.process.send_signal(signal.SIGCONT)
    for _ in STEPS_OF_ALL_KINDS:
        outcome = worker.read("outcome")
        assert outcome["kind"] == "Lost"
        assert "silent for 3 s" in outcome["text"]
    assert [i for i in worker.own if is_running(i)] == worker.own


def test_a_continued_worker_reads_what_waits_before_it_judges(start_worker: Callable[..., Worker]) -> None:
    """Its steps ended at their limit while it was stopped: it must not take them for those that nobody has ended."""
    worker = start_worker(silence=60.0, functions=("loop_in_regex@2",) * 4)
    worker.process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    eventually(lambda: not [i for i in worker.of_steps if is_running(i)], "the steps have gone", 60)
    overdue = 2.0 + OWN_SLACK_SECONDS + 0.5
    eventually(lambda: time.monotonic() > stopped_at + overdue, "the worker itself would have acted", 60)
    worker.process.send_signal(signal.SIGCONT)
    assert [worker.read("outcome")["kind"] for _ in range(4)] == ["TimedOut"] * 4
    assert "neither supervisor nor guard" not in worker.log.read_text()


def test_a_worker_that_does_not_beat_loses_its_steps(tmp_path: Path) -> None:
    """It lives, but can't renew its liveness row: by the guard's rules that is silence."""
    guard = Guard(silence_seconds=3.0)
    guard.start()
    environment = allowed_environment(os.environ)
    sandbox = Sandbox(scratch_dir=tmp_path / "scratch", preload=[STEPS], environment=environment, guard=guard)
    sandbox.start()
    guard.beat()
    running = Running(sandbox, step_call("daemonize"))
    assert isinstance(running.outcome(), Lost)
    assert running.caller.living() == []
    renewed, done = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(0.1):
            guard.beat()
            renewed.set()

    heartbeat = threading.Thread(target=renew)
    heartbeat.start()
    assert renewed.wait(60)
    assert Running(sandbox, step_call("echo", value=1)).outcome() == Completed(1)
    done.set()
    heartbeat.join()
    sandbox.stop()
    guard.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_guard_is_replaced_and_knows_the_running_steps(tmp_path: Path, how: signal.Signals) -> None:
    guard = Guard(silence_seconds=3.0, beat_seconds=0.2)
    guard.start()
    environment = allowed_environment(os.environ)
    sandbox = Sandbox(scratch_dir=tmp_path / "scratch", preload=[STEPS], environment=environment, guard=guard)
    sandbox.start()
    running = Running(sandbox, step_call("daemonize", time_limit=10))
    child = running.caller.wait_for("pids")["pids"][-1]
    first = guard.pid
    assert first is not None
    os.kill(first, how)
    eventually(lambda: guard.pid not in (None, first), "another guard is there", 10)
    assert guard.replacements == 1
    supervisor = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGSTOP)  # so that only the new guard can end it
    assert isinstance(running.outcome(), TimedOut)
    assert running.caller.living() == []
    sandbox.stop()
    guard.stop()


def test_without_any_guard_steps_end_and_none_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    guard = Guard(beat_seconds=0.2, on_lost=reasons.append)
    guard.start()
    environment = allowed_environment(os.environ)
    sandbox = Sandbox(scratch_dir=tmp_path / "scratch", preload=[STEPS], environment=environment, guard=guard)
    sandbox.start()
    running = Running(sandbox, step_call("daemonize"))
    running.caller.wait_for("pids")
    monkeypatch.setattr("orchestrator.isolation.guard.MAX_REPLACEMENTS", 0)
    assert guard.pid is not None
    os.kill(guard.pid, signal.SIGKILL)
    assert isinstance(running.outcome(), Lost)
    assert running.caller.living() == []
    with pytest.raises(GuardLost):
        sandbox.run(step_call("echo", value=1), running.caller.serve, running.caller.cancelled)
    eventually(lambda: reasons, "the worker was notified", 5)
    sandbox.stop()
    guard.stop()


def test_the_guard_never_signals_a_reused_pid() -> None:
    """A supervisor that is gone at registration, or whose pid has another start time, is nobody."""
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    identity = eventually(lambda: identify(bystander.pid), "it runs")
    from orchestrator.isolation.process_tree import end_tree

    ended = end_tree(ProcessId(bystander.pid, identity.started - 1))
    assert (ended.processes, ended.proved) == (0, True)
    assert is_running(identity)
    bystander.communicate()
    assert guard_process.SUPERVISOR_SLACK_SECONDS < 2.0
