"""What a step does, and the outcome that the worker gets. Every test forks real processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actors.errors import OwnershipLost
from orchestrator.isolation.outcome import Cancelled, Completed, Crashed, Failed, OutOfMemory, Signalled
from orchestrator.isolation.sandbox import Sandbox
from orchestrator.isolation.step_run import StepCall
from orchestrator.isolation.zygote_link import PreloadFailed
from tests.orchestrator.isolation.sandbox_calls import STEPS, Caller, Running, step_call

pytestmark = pytest.mark.processes


def run(sandbox: Sandbox, function: str, **context: Any) -> Any:
    return Running(sandbox, step_call(function, **context)).outcome()


@pytest.mark.parametrize("value", [None, 0, "ü\n\ud7ff", [], {"a": [1, 2.5, {"b": False}]}])
def test_a_value_comes_back_as_data(sandbox: Sandbox, value: Any) -> None:
    assert run(sandbox, "echo", value=value) == Completed(value)


def test_a_step_runs_with_the_real_context(sandbox: Sandbox) -> None:
    context = {
        "account": "acme",
        "job": {"id": "j1", "pipeline": "p", "created_at": "2030-01-01T00:00:00+00:00"},
        "input": {"word": "hello"},
        "outputs": {},
        "attempt": 1,
        "deadline": "2030-01-01T00:00:00+00:00",
        "input_model": f"{STEPS}:Word",
    }
    caller = Caller()
    call = StepCall("real.1", STEPS, "with_real_context", context, 20)
    outcome = sandbox.run(call, caller.serve, caller.cancelled, caller.note)
    assert outcome == Completed({"account": "acme", "word": "hello", "cancelled": False})
    assert caller.calls == [("progress", {"percent": 50, "note": "half"})]


def test_an_exception_is_step_failed_with_the_steps_own_traceback(sandbox: Sandbox) -> None:
    outcome = run(sandbox, "raise_value_error")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent) == ("step_failed", False)
    assert outcome.message == "ValueError: no good \\udcff"
    assert "raise_value_error" in outcome.traceback
    assert "child.py" not in outcome.traceback


def test_a_step_error_keeps_its_code(sandbox: Sandbox) -> None:
    outcome = run(sandbox, "raise_step_error")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent, outcome.message) == ("login_required", True, "sign in by hand")


@pytest.mark.parametrize(
    ("function", "message"),
    [("raise_unprintable", "can't be shown"), ("call_sys_exit", "SystemExit: 3"), ("recurse", "RecursionError")],
)
def test_odd_exceptions_are_failures_too(sandbox: Sandbox, function: str, message: str) -> None:
    outcome = run(sandbox, function)
    assert isinstance(outcome, Failed)
    assert message in outcome.message


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("retry", {"reason": "the step asked for a retry", "after": 4.5}),
        ("snooze", {"reason": "the step asked to wait", "until": "2030-01-02T00:00:00+00:00"}),
        ("reject", {"reason": "never", "code": "content_blocked"}),
        ("provider_busy", {"reason": "the provider is busy", "after": 27, "scope": "gemini:3f2a"}),
    ],
)
def test_signals_cross_as_data(sandbox: Sandbox, kind: str, data: dict[str, Any]) -> None:
    assert run(sandbox, "raise_signal", kind=kind) == Signalled(kind, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_json_fails_for_good(sandbox: Sandbox, which: int) -> None:
    outcome = run(sandbox, "return_not_json", which=which)
    assert isinstance(outcome, Failed)
    assert outcome.permanent
    assert "not JSON" in outcome.message


def test_a_huge_result_is_refused_and_one_at_the_bound_is_not(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(max_result_bytes=300_002)
    assert run(sandbox, "return_huge", size=300_000) == Completed("x" * 300_000)
    outcome = run(sandbox, "return_huge", size=300_001)
    assert isinstance(outcome, Failed)
    assert outcome.permanent
    assert "300003 bytes of JSON, where 300002 are allowed" in outcome.message


def test_a_call_over_its_bound_fails_in_the_step(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(max_call_bytes=2_000_000)
    assert run(sandbox, "ask_huge", size=1_900_000) == Completed(None)
    outcome = run(sandbox, "ask_huge", size=2_000_000)
    assert isinstance(outcome, Failed)
    assert "where a call may have 2000000" in outcome.message


def test_a_context_that_can_not_travel_is_refused_before_anything_starts(sandbox: Sandbox) -> None:
    with pytest.raises(TypeError):
        run(sandbox, "echo", value={1, 2})


def test_calls_from_several_threads_get_their_own_answers(sandbox: Sandbox) -> None:
    assert run(sandbox, "ask_from_threads") == Completed([n * 2 for n in range(8)])


@pytest.mark.parametrize(
    ("error", "code", "permanent"),
    [
        (OwnershipLost("taken"), "lost", False),
        (type("Mine", (Exception,), {"code": "made_up", "permanent": True})("taken"), "made_up", True),
        (KeyError("taken"), "internal", False),
    ],
)
def test_a_refused_call_fails_the_step_with_the_refusals_code(
    sandbox: Sandbox, error: Exception, code: str, permanent: bool
) -> None:
    def refuse(name: str, payload: dict[str, Any]) -> Any:
        raise error

    outcome = sandbox.run(step_call("ask", name="x", payload={}), refuse, threading.Event())
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent) == (code, permanent)
    assert "taken" in outcome.message


def test_killed_from_outside(sandbox: Sandbox) -> None:
    running = Running(sandbox, step_call("loop_in_python"))
    os.kill(running.caller.wait_for("running")["pid"], signal.SIGKILL)
    outcome = running.outcome()
    assert isinstance(outcome, Crashed)
    assert outcome.status.startswith("killed by SIGKILL")
    assert running.caller.living() == []


@pytest.mark.parametrize(
    ("function", "context", "status", "tail"),
    [
        ("die_by", {"signal": 15}, "killed by SIGTERM", "famous last words"),
        ("exit_at_once", {}, "exit status 3", "unflushed, but a line"),
        ("segfault", {}, "killed by SIGSEGV", "in segfault"),
        ("overflow_the_stack", {}, "killed by SIGSEGV", "in __repr__"),
        ("chatter", {}, "exit status 9", "line 19999"),
    ],
)
def test_crashes_name_the_end_and_the_last_words(
    sandbox: Sandbox, function: str, context: dict[str, Any], status: str, tail: str
) -> None:
    outcome = run(sandbox, function, **context)
    assert isinstance(outcome, Crashed)
    assert outcome.status.startswith(status)
    assert tail in outcome.tail
    assert len(outcome.tail) < 9_000
    assert outcome.status in outcome.message


def test_garbage_on_the_connection_is_a_failure_and_ends_the_step(sandbox: Sandbox) -> None:
    outcome = run(sandbox, "write_garbage")
    assert isinstance(outcome, Failed)
    assert "unreadable" in outcome.message


@pytest.mark.parametrize(
    ("function", "context"),
    [
        ("allocate", {"pause": 0.0}),  # faster than anybody looks: the limit on the process refuses it
        ("allocate_in_grandchildren", {}),  # each within that limit: the supervisor adds them up
    ],
)
def test_over_the_memory_limit(sandbox: Sandbox, function: str, context: dict[str, Any]) -> None:
    running = Running(sandbox, step_call(function, memory=150 << 20, **context))
    outcome = running.outcome()
    assert isinstance(outcome, OutOfMemory)
    assert outcome.memory_limit_bytes == 150 << 20


def test_cancelling_refuses_calls_and_ends_the_step(sandbox: Sandbox) -> None:
    running = Running(sandbox, step_call("until_cancelled"))
    running.caller.wait_for("running")
    running.caller.cancelled.set()
    assert running.outcome() == Cancelled()
    assert "late" not in [name for name, _ in running.caller.calls]


def test_a_step_that_finishes_within_the_grace_has_its_result(make_sandbox: Callable[..., Sandbox]) -> None:
    running = Running(make_sandbox(cancel_grace_seconds=60.0), step_call("until_cancelled", **{"return": True}))
    running.caller.wait_for("running")
    running.caller.cancelled.set()
    assert running.outcome() == Completed("CallRefused cancelled")


def test_a_step_that_ignores_the_cancel_is_ended(make_sandbox: Callable[..., Sandbox]) -> None:
    running = Running(make_sandbox(cancel_grace_seconds=0.1), step_call("sleep_holding_the_gil"))
    running.caller.wait_for("running")
    running.caller.cancelled.set()
    assert running.outcome() == Cancelled()
    assert running.caller.living() == []


def test_a_module_that_can_not_be_imported_is_a_clear_error(make_sandbox: Callable[..., Sandbox]) -> None:
    with pytest.raises(PreloadFailed, match=r"importing no\.such\.module failed[\s\S]*ModuleNotFoundError"):
        make_sandbox(preload=["no.such.module"])


def test_a_step_that_is_not_there_fails(sandbox: Sandbox) -> None:
    outcome = run(sandbox, "no_such_step")
    assert isinstance(outcome, Failed)
    assert "no_such_step" in outcome.message


def test_sixteen_threads_at_once(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(warm_spares=2)
    running = [Running(sandbox, step_call("ask", name="double", payload={"n": n})) for n in range(16)]
    assert [r.outcome() for r in running] == [Completed({"n": n * 2}) for n in range(16)]
