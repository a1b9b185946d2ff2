"""Finding and ending trees, without a sandbox around them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.isolation.process_tree import (
    ProcessId,
    ProcessRecord,
    descendants,
    end_tree,
    identify,
    is_running,
    read_process,
    send,
    snapshot,
)
from tests.orchestrator.isolation.sandbox_calls import eventually, living_below

SLEEPER = "import sys; print(flush=True); sys.stdin.read()"
#: A parent that starts another child whenever one dies.
REPLACING = """
import subprocess, sys
print(flush=True)
while True:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
"""


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python programs that print a line once they run, and ends them after the test."""
    processes = []

    def start(code: str, **settings: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **settings
        )
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in processes:
        if (identity := identify(process.pid)) is not None:
            end_tree(identity)
        process.communicate()


@pytest.fixture
def bystander(start: Start) -> subprocess.Popen[bytes]:
    return start(SLEEPER)


def known(pid: int) -> ProcessId:
    identity = identify(pid)
    assert identity is not None
    return identity


def record(pid: int, parent: int, state: str = "S") -> ProcessRecord:
    return ProcessRecord(ProcessId(pid, pid), parent, state)


def test_descendants_follow_parents_only_and_survive_a_loop() -> None:
    processes = {r.identity.pid: r for r in [record(2, 1), record(3, 2), record(4, 3, "Z"), record(5, 1), record(6, 6)]}
    assert sorted(r.identity.pid for r in descendants([2], processes)) == [3, 4]
    assert sorted(r.identity.pid for r in descendants([6], processes)) == [6]
    assert descendants([99], processes) == []


def test_a_name_with_brackets_and_spaces_does_not_confuse_the_reader(start: Start) -> None:
    code = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0); print(flush=True); sys.stdin.read()"
    odd = start(code)
    eventually(lambda: (found := read_process(odd.pid)) is not None and found.state == "S", "it waits for input")
    found = read_process(odd.pid)
    assert found is not None
    assert found.parent == os.getpid()


@pytest.mark.processes
def test_a_pid_with_another_start_time_is_never_signalled(bystander: subprocess.Popen[bytes]) -> None:
    identity = known(bystander.pid)
    stale = ProcessId(identity.pid, identity.started - 1)
    assert not is_running(stale)
    assert not send(stale, signal.SIGKILL)
    assert end_tree(stale).processes == 0
    assert is_running(identity)
    assert not send(ProcessId(2**22 - 1, 1), signal.SIGKILL)


@pytest.mark.processes
def test_a_zombie_counts_as_gone(bystander: subprocess.Popen[bytes]) -> None:
    identity = known(bystander.pid)
    bystander.kill()
    eventually(lambda: (r := read_process(identity.pid)) is not None and r.state == "Z", "it is a zombie")
    assert not is_running(identity)
    assert identity.pid in snapshot()
    assert end_tree(identity).proved


@pytest.mark.processes
def test_a_parent_that_replaces_its_dead_is_frozen_first(start: Start, bystander: subprocess.Popen[bytes]) -> None:
    parent = start(REPLACING)
    eventually(lambda: living_below(parent.pid), "it has a child")
    tree = [known(parent.pid), *living_below(parent.pid)]
    ended = end_tree(tree[0])
    assert ended.proved
    assert ended.processes >= 2
    assert [identity for identity in tree if is_running(identity)] == []
    assert is_running(known(bystander.pid))


@pytest.mark.processes
def test_without_the_root_only_what_is_below_it_ends(start: Start) -> None:
    parent = start(REPLACING)
    eventually(lambda: living_below(parent.pid), "it has a child")
    child = living_below(parent.pid)[0]
    # The parent lives and forks again, so the end of its tree is not proved; the child that was there is gone.
    end_tree(known(parent.pid), with_root=False, within_seconds=1.0)
    assert not is_running(child)
    assert is_running(known(parent.pid))
    assert end_tree(known(parent.pid)).proved
