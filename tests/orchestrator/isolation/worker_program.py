"""A worker for the tests that kill it: runs the named steps at once, and prints what goes on as lines of JSON.

A step is ``name``, or ``name@seconds`` with its time limit.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.process_tree import identify
from orchestrator.isolation.sandbox import Sandbox
from tests.orchestrator.isolation.sandbox_calls import STEPS, step_call


def main(scratch: str, silence: str, *functions: str) -> None:
    turn = threading.Lock()

    def say(event: str, **data: Any) -> None:
        with turn:
            print(json.dumps({"event": event, **data}), flush=True)

    def named(pid: int) -> list[float]:
        identity = identify(pid)
        assert identity is not None
        return [identity.pid, identity.started]

    guard = Guard(silence_seconds=float(silence), beat_seconds=0.2)
    guard.start()
    sandbox = Sandbox(
        scratch_dir=Path(scratch), preload=[STEPS], environment=allowed_environment(os.environ), guard=guard
    )
    sandbox.start()
    assert guard.pid is not None
    assert sandbox.zygote_pid is not None
    say("started", processes=[named(guard.pid), named(sandbox.zygote_pid)])

    def run(function: str) -> None:
        def serve(name: str, payload: dict[str, Any]) -> None:
            pids = payload.get("pids", []) + [payload[role] for role in ("pid", "supervisor") if role in payload]
            say("step", processes=[named(pid) for pid in pids])

        name, _, limit = function.partition("@")
        outcome = sandbox.run(step_call(name, time_limit=float(limit or 60)), serve, threading.Event())
        say("outcome", kind=type(outcome).__name__, text=str(outcome))

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdin.read()
    sandbox.stop()
    guard.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
