"""Children of `up` start side by side, and use what they share only once it is there."""

from __future__ import annotations

import os
import queue
import signal

import pytest

from orchestrator.local.supervisor import ChildSpec, Supervisor
from tests import ROOT

pytestmark = pytest.mark.processes

SPEC = ChildSpec("child", "tests.orchestrator.local.waiting_child", [], {"PYTHONPATH": str(ROOT)})


def test_a_child_waits_for_its_supervisor_and_its_successor_starts_at_once() -> None:
    lines: queue.Queue[str] = queue.Queue()
    supervisor = Supervisor(lambda _, line: lines.put(line))
    try:
        supervisor.start(SPEC)
        assert lines.get(timeout=60) == "started"
        assert lines.empty()
        supervisor.let_begin()
        assert lines.get(timeout=60) == "began"
        os.kill(supervisor.pids()["child"], signal.SIGKILL)
        assert "ended unexpectedly (signal SIGKILL)" in lines.get(timeout=60)
        assert [lines.get(timeout=60), lines.get(timeout=60)] == ["started", "began"]
    finally:
        supervisor.stop()
