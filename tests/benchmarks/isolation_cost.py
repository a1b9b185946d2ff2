"""What a process of its own costs a step: `python -m tests.benchmarks.isolation_cost`.

A step that does nothing, in a thread of the caller; in a process forked when it is needed; in a warm spare. The sandbox
is set up as a worker does it, with the clients preloaded. Measured are

- the time of one step after a rest, so that the spare is ready: what a lone job waits longer;
- steps a second one after the other, and by 8 threads at once: what is left when there is no rest;
- processor time of a step, all processes together.

Prints a table and writes `isolation_cost.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from actors.context import StepContext
from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.outcome import Completed
from orchestrator.isolation.sandbox import Sandbox
from orchestrator.isolation.step_run import StepCall
from orchestrator.worker.process import PRELOADED_CLIENTS
from tests.crashes.report import quantile

from . import pipelines

THREADS = 8
#: Between two steps of which each finds a spare that is ready.
REST_SECONDS = 0.1
STEP = pipelines.apart
#: Runs the step once.
Run = Callable[[], None]
_numbers = itertools.count()


def wire() -> dict[str, Any]:
    """A step's context as a worker sends it."""
    now = datetime.now(UTC)
    return {
        "account": "acme",
        "job": {"id": "job", "pipeline": "apart", "created_at": now.isoformat(), "tags": []},
        "input": {},
        "outputs": {},
        "attempt": 1,
        "deadline": (now + timedelta(seconds=60)).isoformat(),
    }


class _NoPort:
    def call(self, name: str, payload: dict[str, Any]) -> Any:
        raise AssertionError(f"a step that does nothing called {name}")

    def send(self, name: str, payload: dict[str, Any]) -> None:
        raise AssertionError(f"a step that does nothing sent {name}")


def run_here() -> None:
    """As a worker does for isolation="thread"."""
    STEP(StepContext.from_wire(wire(), pipelines.Nothing, _NoPort()))


@contextmanager
def in_processes(folder: Path, warm_spares: int) -> Iterator[tuple[Run, Callable[[], float]]]:
    """How to run the step in a process, and the processor seconds that the sandbox's processes have used."""
    guard = Guard()
    guard.start()
    sandbox = Sandbox(
        scratch_dir=folder,
        preload=sorted({STEP.module, *PRELOADED_CLIENTS}),
        environment=allowed_environment(os.environ),
        guard=guard,
        warm_spares=warm_spares,
    )
    beating = threading.Event()
    beats = threading.Thread(target=_beat, args=(guard, beating))
    beats.start()
    try:
        sandbox.start()
        yield lambda: _run_in(sandbox), lambda: _processor_seconds(sandbox.zygote_pid)
    finally:
        sandbox.stop()
        beating.set()
        beats.join()
        guard.stop()


def _beat(guard: Guard, ended: threading.Event) -> None:
    """As the worker's liveness does; without it the guard would end the steps."""
    while not ended.wait(1.0):
        guard.beat()


def _run_in(sandbox: Sandbox) -> None:
    context = {**wire(), "input_model": f"{pipelines.Nothing.__module__}:{pipelines.Nothing.__qualname__}"}
    call = StepCall(f"bench-{next(_numbers)}", STEP.module, STEP.function.__qualname__, context, STEP.time_limit)
    outcome = sandbox.run(call, _NoPort().call, threading.Event())
    if outcome != Completed({}):
        raise SystemExit(f"the step ended otherwise: {outcome}")


def _processor_seconds(zygote: int | None) -> float:
    """Of the zygote, and of all that it has reaped: supervisors, and the steps that those had reaped."""
    return sum(psutil.Process(zygote).cpu_times()[:4]) if zygote is not None else 0.0


def measure(run: Run, processor_seconds: Callable[[], float], *, steps: int, rest: float) -> dict[str, float]:
    run()
    times = []
    for _ in range(max(20, steps // 4)):
        time.sleep(rest)
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    used = processor_seconds() + time.process_time()
    alone = _rate(run, steps, 1)
    used = processor_seconds() + time.process_time() - used
    return {
        "step_p50_ms": statistics.median(times),
        "step_p99_ms": quantile(times, 0.99),
        "steps_per_second": alone,
        f"steps_per_second_by_{THREADS}_threads": _rate(run, steps, THREADS),
        "processor_ms_per_step": 1000 * used / steps,
    }


def _rate(run: Run, steps: int, threads: int) -> float:
    numbers = itertools.count()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while next(numbers) < steps:
                run()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    results = {"in a thread": measure(run_here, lambda: 0.0, steps=chosen.steps, rest=0.0)}
    for name, spares in (("a process, forked for it", 0), ("a process, warm spare", 1)):
        with tempfile.TemporaryDirectory() as folder, in_processes(Path(folder), spares) as (run, processor_seconds):
            results[name] = measure(run, processor_seconds, steps=chosen.steps, rest=REST_SECONDS)
    print(f"{'a step that does nothing':34}" + "".join(f"{name:>26}" for name in results))
    for name in next(iter(results.values())):
        print(f"{name.replace('_', ' '):34}" + "".join(f"{each[name]:26.2f}" for each in results.values()))
    reported = {"steps": chosen.steps, "cores": os.cpu_count(), "load": os.getloadavg(), **results}
    chosen.json.write_text(json.dumps(reported, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
