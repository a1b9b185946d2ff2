"""Steps that hang in every way we know of: all end at their limit, with nothing left of their tree."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.isolation.outcome import Completed, Crashed, TimedOut
from orchestrator.isolation.process_tree import identify
from orchestrator.isolation.sandbox import Sandbox
from tests.orchestrator.isolation.sandbox_calls import (
    BOUND_SECONDS,
    Running,
    eventually,
    left_in,
    living_below,
    step_call,
    zombies_below,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium") or shutil.which("google-chrome")


def ends_at_its_limit(sandbox: Sandbox, function: str, limit: float = 0.5, **context: Any) -> Running:
    for patience in (1, 4, 16):  # a busy machine may not even get to the place where the step hangs
        started = time.monotonic()
        running = Running(sandbox, step_call(function, time_limit=limit * patience, memory=None, **context))
        outcome = running.outcome(120)
        took = time.monotonic() - started
        assert isinstance(outcome, TimedOut)
        assert limit * patience <= took < limit * patience + BOUND_SECONDS
        assert running.caller.living() == []
        if running.caller.processes:
            return running
    pytest.fail("the step never got to the place where it hangs")


@pytest.mark.parametrize(
    "function",
    [
        "loop_in_python",
        "loop_in_regex",
        "loop_in_c_without_the_gil",
        "sleep_holding_the_gil",
        "ignore_everything",
        "daemonize",
        "fork_without_end",
    ],
)
def test_a_hanging_step_ends_at_its_limit(sandbox: Sandbox, function: str) -> None:
    ends_at_its_limit(sandbox, function)
    zygote = sandbox.zygote_pid
    assert zygote is not None
    eventually(lambda: zombies_below(zygote) == [], "no zombie is left", 5)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_frozen_browser_ends_at_the_limit(sandbox: Sandbox) -> None:
    running = ends_at_its_limit(sandbox, "frozen_browser", limit=3.0, executable=CHROMIUM)
    reported = running.caller.wait_for("pids")
    assert len(reported["sessions"]) > 1, "Chromium is meant to have a session of its own here"
    assert len(reported["pids"]) > 4


def test_a_daemon_does_not_outlive_a_step_that_succeeds(sandbox: Sandbox) -> None:
    running = Running(sandbox, step_call("daemonize", **{"return": True}))
    assert running.outcome() == Completed(None)
    assert len(running.caller.processes) == 3
    assert running.caller.living() == []


def test_a_spoiled_directory_is_removed_and_nothing_outside_of_it(
    sandbox: Sandbox, scratch: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("keep")
    ends_at_its_limit(sandbox, "spoil_tmpdir", outside=str(outside))
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert left_in(scratch) == []


def test_the_guard_ends_a_step_whose_supervisor_is_stopped(sandbox: Sandbox) -> None:
    running = Running(sandbox, step_call("daemonize", time_limit=5.0))
    started = time.monotonic()
    child = running.caller.wait_for("pids")["pids"][-1]
    supervisor = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGSTOP)
    assert isinstance(running.outcome(), TimedOut)
    assert time.monotonic() - started < 5.0 + BOUND_SECONDS
    assert running.caller.living() == []


def test_the_tree_of_a_killed_supervisor_is_ended(sandbox: Sandbox) -> None:
    """Its orphans go to the zygote, and run() waits until they are gone."""
    running = Running(sandbox, step_call("daemonize"))
    child = running.caller.wait_for("pids")["pids"][-1]
    supervisor = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    outcome = running.outcome()
    assert isinstance(outcome, Crashed)
    assert "supervisor" in outcome.status
    assert running.caller.living() == []


def test_a_killed_zygote_harms_no_running_step_and_is_replaced(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(cancel_grace_seconds=60.0)
    running = Running(sandbox, step_call("until_cancelled", **{"return": True}))
    running.caller.wait_for("running")
    zygote = sandbox.zygote_pid
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: identify(zygote) is None, "the zygote is dead", 5)
    assert Running(sandbox, step_call("echo", value=1)).outcome() == Completed(1)
    assert sandbox.zygote_pid != zygote
    running.caller.cancelled.set()
    assert isinstance(running.outcome(), Completed)


def test_zygote_and_supervisor_both_killed(sandbox: Sandbox) -> None:
    """Then the orphans went to init; their environment still says whose they are."""
    running = Running(sandbox, step_call("ignore_everything_in_a_daemon"))
    reported = running.caller.wait_for("pids")
    zygote = sandbox.zygote_pid
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    os.kill(reported["supervisor"], signal.SIGKILL)
    assert isinstance(running.outcome(), Crashed)
    assert running.caller.living() == []


def test_stopping_the_sandbox_ends_running_steps(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox()
    running = [Running(sandbox, step_call("daemonize")), Running(sandbox, step_call("loop_in_regex"))]
    running[0].caller.wait_for("pids")
    running[1].caller.wait_for("running")
    sandbox.stop()
    for r in running:
        assert type(r.outcome()).__name__ == "Cancelled"
        assert r.caller.living() == []


@pytest.mark.parametrize(
    "kills",
    [
        50,
        pytest.param(
            1000,
            marks=[
                pytest.mark.slow,
                pytest.mark.timeout(900),
                pytest.mark.skipif(os.environ.get("LONG_TESTS") != "1", reason="the long form: run with LONG_TESTS=1"),
            ],
        ),
    ],
)
def test_many_kills_leave_nothing(make_sandbox: Callable[..., Sandbox], tmp_path: Path, kills: int) -> None:
    sandbox = make_sandbox(warm_spares=2)
    functions = ["daemonize", "loop_in_regex", "ignore_everything", "fork_without_end", "spoil_tmpdir"]
    descriptors = len(os.listdir("/proc/self/fd"))
    for first in range(0, kills, 10):
        running = [
            Running(sandbox, step_call(functions[(first + n) % len(functions)], time_limit=0.3, outside=str(tmp_path)))
            for n in range(10)
        ]
        for r in running:
            assert isinstance(r.outcome(), TimedOut)
            assert r.caller.living() == []
    zygote = sandbox.zygote_pid
    assert zygote is not None
    # Two spares, each a supervisor and a child; and whatever this interpreter had open before.
    eventually(lambda: len(living_below(zygote)) == 4, "only the spares are left", 10)
    eventually(lambda: zombies_below(zygote) == [], "no zombie is left", 5)
    assert left_in(tmp_path / "scratch") == []
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "no descriptor has leaked", 5)
