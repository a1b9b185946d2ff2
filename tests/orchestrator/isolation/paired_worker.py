"""What the failure table forks for each row: a worker that runs one step, and a control plane.

Both are made of the service's own parts: guard, sandbox, liveness, and the statements that start, end and take a step.
Only the broker is missing, which has no part in when a step's processes end.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NoReturn, cast

from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.process_tree import ProcessId, identify, is_running
from orchestrator.isolation.sandbox import Sandbox
from orchestrator.isolation.step_run import StepCall
from orchestrator.worker.execution import Execution
from orchestrator.worker.heartbeat import Liveness
from orchestrator.worker.process import WORKER_GRACE_SECONDS
from tenants.database.transactions import Database
from tenants.errors import OwnershipLost, Unavailable
from tenants.store import workers
from tenants.store.attempt import OwnedAttempt
from tenants.store.job_store import job_store
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs.create import JobPlan, StepPlan
from tenants.store.steps import finish as finish_steps

STEPS = "tests.orchestrator.isolation.misbehaving_steps"
WORKER = "attacked"
_UNFIT_STATUS = 70


def database_url(folder: Path) -> str:
    return f"sqlite:///{folder}/onelane.db"


def run_worker(folder: Path, gate: int, reported: int, limit_seconds: float) -> NoReturn:
    """Entry of the worker, directly after its fork: wait for the gate, run one step, say as JSON what goes on."""
    os.read(gate, 1)
    turn = threading.Lock()

    def say(event: str, **data: Any) -> None:
        with turn:
            os.write(reported, json.dumps({"event": event, **data}).encode() + b"\n")

    guard = Guard(worker_grace_seconds=WORKER_GRACE_SECONDS, on_lost=lambda _: os._exit(_UNFIT_STATUS))
    guard.start()
    sandbox = Sandbox(
        scratch_dir=folder / "scratch",
        preload=[STEPS],
        environment=allowed_environment(os.environ),
        guard=guard,
        warm_spares=0,
    )
    sandbox.start()
    database = Database(database_url(folder))
    workers.register_surely(database, id=WORKER, host="here", pid=os.getpid(), lanes=["generate"], threads=1)
    execution = cast(Execution, _OneStep())

    def end(*_: str) -> None:
        os._exit(_UNFIT_STATUS)

    liveness = Liveness(WORKER, database, execution, guard, on_unfit=end, on_superseded=end)
    liveness.start()
    owned = _start_new_step(database)

    of_step: list[ProcessId] = []

    def serve(name: str, payload: dict[str, Any]) -> None:
        of_step.extend(named(_named(pid)) for pid in payload["pids"])
        child = payload["pids"][-1]
        supervisor = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        say(
            "running",
            step_id=owned.step_id,
            step=[_named(pid) for pid in payload["pids"]],
            worker=_named(os.getpid()),
            guard=_named(guard.pid),
            zygote=_named(sandbox.zygote_pid),
            supervisor=_named(supervisor),
            child=_named(child),
        )

    call = StepCall("step.1", STEPS, "daemonize", {}, limit_seconds, None, f"{STEPS}:bench")
    outcome = sandbox.run(call, serve, threading.Event())
    seen_gone_at = None if any(is_running(each) for each in of_step) else time.time()
    error = {"code": "lost", "message": "it was ended"}
    try:
        database.write(lambda c: finish_steps.retry(c, owned, outcome="lost", error=error, delay_seconds=0.0))
        say("outcome", kind=type(outcome).__name__, seen_gone_at=seen_gone_at)
    except OwnershipLost:
        say("outcome", kind="refused", seen_gone_at=seen_gone_at)
    threading.Event().wait()
    raise AssertionError("unreachable: nothing sets the event")


class _OneStep:
    """What `Liveness` asks of the worker's execution."""

    busy = 1

    def hand_back_orphaned(self) -> None:
        """There are none: one step is started, once."""

    def cancel(self, step_id: str) -> None:
        raise AssertionError(f"nobody cancels step {step_id}")


def _start_new_step(database: Database) -> OwnedAttempt:
    plan = JobPlan(pipeline="blog", input={"topic": "x"}, steps=(StepPlan("generate", "generate", True, 3),))
    made = database.write(lambda c: create_jobs.create(c, "acme", [plan]))
    owned = job_store(database).start(made.queued[0].id, worker_id=WORKER, slot=0)
    assert isinstance(owned, OwnedAttempt), owned
    return owned


def _named(pid: int | None) -> list[float]:
    identity = identify(pid) if pid is not None else None
    assert identity is not None, "a part of the worker has gone before it was attacked"
    return [identity.pid, identity.started]


def named(data: list[float]) -> ProcessId:
    return ProcessId(int(data[0]), data[1])


def run_control_plane(folder: Path, gate: int) -> NoReturn:
    """Entry of the control plane that is attacked: takes steps from dead workers, again and again."""
    os.read(gate, 1)
    database = Database(database_url(folder))
    while True:
        with contextlib.suppress(OwnershipLost, Unavailable):  # the harness' own one was faster, or writes just now
            take_from_the_dead(database)
        time.sleep(0.5)


def take_from_the_dead(database: Database) -> None:
    """What the rescuer does. Raises OwnershipLost where another one was faster, Unavailable for a busy database."""
    database.write(workers.declare_dead)
    for step in database.read(workers.abandoned_steps):
        database.write(lambda c, step=step: finish_steps.lose(c, step["id"], step["run_token"]))  # type: ignore[misc]
