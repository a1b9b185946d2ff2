"""Calls of `Sandbox.run` for the tests of isolation: a thread that makes one, its answers, and its processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.isolation.outcome import Outcome
from orchestrator.isolation.process_tree import ProcessId, descendants, identify, is_running, snapshot
from orchestrator.isolation.sandbox import Sandbox
from orchestrator.isolation.step_run import StepCall

#: P4: a step ends within its limit and two seconds. Normally that takes 0.05 s; the rest of this bound is room for a
#: machine that is busy with other tests.
BOUND_SECONDS = 2.0 + 3.0
STEPS = "tests.orchestrator.isolation.misbehaving_steps"
_keys = iter(range(1, 1_000_000))


def step_call(function: str, *, time_limit: float = 60.0, memory: int | None = None, **context: Any) -> StepCall:
    key = f"step{next(_keys)}.1"
    return StepCall(key, STEPS, function, context, time_limit, memory, f"{STEPS}:bench")


class Caller:
    """Answers a step's calls and remembers them; `wait_for` returns the payload of a call, once it has come."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.processes: list[ProcessId] = []
        self.cancelled = threading.Event()
        self._changed = threading.Condition()

    def serve(self, name: str, payload: dict[str, Any]) -> Any:
        # Identified here, while the step waits for its answer and all of them certainly live.
        # The supervisor is left out: nothing of the step is in it, and it leaves a moment after its last word.
        pids = [*payload.get("pids", []), *([payload["pid"]] if "pid" in payload else [])]
        with self._changed:
            self.processes += [identity for pid in pids if (identity := identify(pid)) is not None]
            self.calls.append((name, payload))
            self._changed.notify_all()
        return {"n": payload["n"] * 2} if name == "double" else None

    def note(self, name: str, payload: dict[str, Any]) -> None:
        self.serve(name, payload)

    def wait_for(self, name: str, seconds: float = 60) -> dict[str, Any]:
        with self._changed:
            found = self._changed.wait_for(lambda: [p for n, p in self.calls if n == name], seconds)
        assert found, f"the step never called {name!r}"
        return found[0]

    def living(self) -> list[ProcessId]:
        return [identity for identity in self.processes if is_running(identity)]


class Running:
    """A call of `Sandbox.run` in a thread of its own, as Dramatiq's worker threads make it."""

    def __init__(self, sandbox: Sandbox, call: StepCall) -> None:
        self.call = call
        self.caller = Caller()
        self._outcome: list[Outcome] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(sandbox,))
        self._thread.start()

    def _run(self, sandbox: Sandbox) -> None:
        try:
            self._outcome.append(sandbox.run(self.call, self.caller.serve, self.caller.cancelled, self.caller.note))
        except BaseException as error:
            self._error.append(error)

    def outcome(self, seconds: float = 120) -> Outcome:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "run() did not return"
        if self._error:
            raise self._error[0]
        return self._outcome[0]


def eventually(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The first true value of `condition`; fails after a bound that is far above the time it normally takes."""
    ends_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends_at, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


def living_below(pid: int) -> list[ProcessId]:
    return [record.identity for record in descendants([pid], snapshot()) if not record.dead]


def zombies_below(pid: int) -> list[ProcessId]:
    return [record.identity for record in descendants([pid], snapshot()) if record.dead]


def left_in(scratch: Path) -> list[Path]:
    """The directories of steps that are still there."""
    return [path for owner in scratch.iterdir() for path in owner.iterdir()]
