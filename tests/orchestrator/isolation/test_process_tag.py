"""The tag of a step: what carries it ends, however it left its parents; nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from orchestrator.isolation.posix import LINUX
from orchestrator.isolation.process_tag import end_tagged, tag_of
from orchestrator.isolation.process_tree import ProcessId, identify, is_running

pytestmark = [pytest.mark.processes, pytest.mark.skipif(not LINUX, reason="only Linux keeps such a limit")]

#: Marks itself and leaves a daemon: another session, no environment, the root directory, no descriptor but one for the
#: test, and a program of its own.
LEAVE_A_DAEMON = """
import os, sys
from orchestrator.isolation.process_tag import set_tag
set_tag(int(sys.argv[1]))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        print(os.getpid(), flush=True)
        os.closerange(0, 256)
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)
"""


@pytest.fixture
def leave_a_daemon() -> Iterator[Callable[[int], ProcessId]]:
    with ExitStack() as stack:

        def leave(tag: int) -> ProcessId:
            command = [sys.executable, "-c", LEAVE_A_DAEMON, str(tag)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            daemon = identify(int(done.stdout))
            assert daemon is not None
            stack.callback(end_tagged, tag)
            return daemon

        yield leave


def test_a_daemon_that_left_everything_still_carries_the_tag(leave_a_daemon: Callable[[int], ProcessId]) -> None:
    one, other = tag_of(ProcessId(4_000_000, 123_456)), tag_of(ProcessId(4_000_001, 123_456))
    tagged, alike = leave_a_daemon(one), leave_a_daemon(other)
    ended = end_tagged(one)
    assert (ended.processes, ended.proved) == (1, True)
    assert not is_running(tagged)
    assert is_running(alike)
    assert end_tagged(one).processes == 0


def test_no_two_supervisors_have_one_tag() -> None:
    supervisors = [ProcessId(pid, started) for pid in (1, 2, 2**22 - 1) for started in (0, 1, 2, 2**31)]
    assert len({tag_of(supervisor) for supervisor in supervisors}) == len(supervisors)
    assert max(tag_of(supervisor) for supervisor in supervisors) < 2**63
