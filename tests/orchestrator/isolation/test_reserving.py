"""Processes that are reserved before their step is started, and the leave to enter a step's function."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.isolation.outcome import Completed, Failed
from orchestrator.isolation.process_tree import is_running
from orchestrator.isolation.sandbox import Sandbox
from tenants.errors import OwnershipLost
from tests.orchestrator.isolation.sandbox_calls import Running, eventually, living_below, step_call

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def test_a_reserved_process_is_used_or_kept(sandbox: Sandbox) -> None:
    with sandbox.reserve() as first:
        supervisor = first.ready()
    assert is_running(supervisor)
    with sandbox.reserve() as second:
        assert second.ready() == supervisor, "it was kept for the next"
        outcome = sandbox.run(step_call("echo", value=1), lambda name, payload: None, threading.Event(), process=second)
    assert outcome == Completed(1)
    eventually(lambda: not is_running(supervisor), "it ran one call and left")


def test_a_reserved_process_that_has_died_is_replaced(sandbox: Sandbox) -> None:
    with sandbox.reserve() as process:
        supervisor = process.ready()
        os.kill(supervisor.pid, signal.SIGKILL)
        eventually(lambda: not is_running(supervisor), "it is dead")
        outcome = sandbox.run(
            step_call("echo", value=2), lambda name, payload: None, threading.Event(), process=process
        )
    assert outcome == Completed(2)


def test_dead_spares_cost_no_zygote(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(warm_spares=2)
    zygote = sandbox.zygote_pid
    assert zygote is not None
    spares = eventually(lambda: (found := living_below(zygote)) and len(found) == 4 and found, "the spares are there")
    for each in spares:
        os.kill(each.pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_running, spares)), "the spares are dead")
    assert Running(sandbox, step_call("echo", value=3)).outcome() == Completed(3)
    assert sandbox.zygote_pid == zygote


def test_a_function_is_entered_only_with_permission(sandbox: Sandbox) -> None:
    asked: list[str] = []
    leave = threading.Event()

    def serve(name: str, payload: dict[str, Any]) -> None:
        asked.append(name)
        if name == "enter" and not leave.is_set():
            raise OwnershipLost("it runs elsewhere")

    call = replace(step_call("ask", name="inside", payload={}), enter="enter")
    refused = sandbox.run(call, serve, threading.Event())
    assert isinstance(refused, Failed)
    assert (refused.code, asked) == ("lost", ["enter"])
    leave.set()
    assert sandbox.run(call, serve, threading.Event()) == Completed(None)
    assert asked == ["enter", "enter", "inside"]
