"""One chaos run: feed and attack, repair, wait for every job to end, judge."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dramatiq.errors import BrokerConnectionError
from sqlalchemy import func, select

from orchestrator.runtime import Runtime
from tenants.database.models import Job
from tenants.queues import QueueError
from tenants.store import workers as worker_store
from tenants.store.jobs.read import FINISHED

from .attacks import Controller, plan_attacks
from .judge import Findings, Judge, kill_recovery_seconds, read_claims, read_observed, recovery_seconds
from .stage import EXPECTED_EXITS, Stage, exits, running_stage, runtime_of
from .workload import Feeder, concurrency_of, plan_jobs, set_limits

jobs = Job.__table__

#: How long the workers may take to serve.
START_SECONDS = 240.0
#: Without any job ending for this long after the attacks, the rest is lost.
STALLED_SECONDS = 120.0
#: How long Redis may take to hold nothing any more after the last job.
QUIET_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is."""

    seconds: float
    jobs: int
    accounts: int
    workers: int = 3
    controls: int = 2
    threads: int = 6
    #: Seconds between attacks, on average.
    every: float = 3.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run showed."""

    database: str
    seed: int
    findings: Findings
    attacks: dict[str, int]
    #: What was killed, by what it was.
    killed: dict[str, int]
    accepted: int
    refusals: int
    statuses: dict[str, int]
    outcomes: dict[str, int]
    posts: int
    runs: int
    #: From each run's death, however it came, to the next begin of its step.
    recovery_seconds: list[float]
    #: From each kill of a worker to the next effect in each tenant queue that it ran something of.
    kill_recovery_seconds: list[float]
    exits: dict[str, int]
    left_over: list[str]
    attack_seconds: float
    drain_seconds: float

    @property
    def ok(self) -> bool:
        return self.findings.ok and not self.left_over


def run_chaos(
    kind: Literal["sqlite", "postgresql"],
    seed: int,
    scale: Scale,
    *,
    say: Callable[[str], None],
    keep: Path | None = None,
) -> Verdict:
    """Run, and judge. The verdict is the caller's to act on."""
    with (
        _quiet(logging.getLogger("orchestrator")),  # the controller's own runtime is attacked too
        running_stage(kind, workers=scale.workers, controls=scale.controls, threads=scale.threads) as stage,
    ):
        try:
            return _run(stage, seed, scale, say)
        finally:
            if keep is not None:
                _keep(stage, keep / f"{kind}-{seed}")


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _run(stage: Stage, seed: int, scale: Scale, say: Callable[[str], None]) -> Verdict:
    wanted = plan_jobs(seed, jobs=scale.jobs, accounts=scale.accounts, seconds=scale.seconds)
    plan = plan_attacks(
        seed,
        seconds=scale.seconds,
        every=scale.every,
        workers=stage.names,
        controls=stage.control_names,
        sql=stage.kind == "postgresql",
    )
    controller = Controller(stage, plan, say)
    with runtime_of(stage, "client") as client, runtime_of(stage, None) as straight:
        set_limits(straight, wanted)
        feeder = Feeder(client, wanted, stage.observer_port)
        _start(stage, straight)
        began = time.monotonic()
        feeder.start()
        controller.run()
        attacked = time.monotonic() - began
        try:
            _drain(stage, straight, feeder, say)
        finally:
            feeder.stop()
        drained = time.monotonic() - began - attacked
        findings = _judge(stage, straight, feeder)
        claims = straight.database.read(read_claims)
    exit_counts = exits(stage.parts)
    overstayed = stage.stop_parts()
    findings.failures += [f"{name} did not stop in order and had to be killed" for name in overstayed]
    left = _left_over(stage)
    observed = read_observed(stage.observed)
    return Verdict(
        database=stage.kind,
        seed=seed,
        findings=findings,
        attacks=dict(sorted(controller.done.items())),
        killed=dict(sorted(controller.killed.items())),
        accepted=len(feeder.accepted),
        refusals=feeder.refusals + len(feeder.unknown),
        statuses=dict(Counter(str(job["status"]) for job in claims.jobs.values())),
        outcomes=dict(Counter(str(attempt["outcome"]) for attempt in claims.attempts)),
        posts=sum(noted["event"] == "post" for noted in observed),
        runs=sum(noted["event"] == "begin" for noted in observed),
        recovery_seconds=recovery_seconds(observed),
        kill_recovery_seconds=kill_recovery_seconds(controller.kills, observed, claims),
        exits=exit_counts,
        left_over=left,
        attack_seconds=attacked,
        drain_seconds=drained,
    )


def _start(stage: Stage, straight: Runtime) -> None:
    """Start every part; the attacks are for workers that serve."""
    end = time.monotonic() + START_SECONDS
    while len(straight.database.read(worker_store.live)) < len(stage.names):
        stage.keep(time.monotonic())
        if time.monotonic() > end:
            raise RuntimeError(f"the workers do not serve after {START_SECONDS:g} s\n{stage.reported()}")
        threading.Event().wait(0.1)


def _drain(stage: Stage, straight: Runtime, feeder: Feeder, say: Callable[[str], None]) -> None:
    """Wait until every job has ended, or none has for too long."""
    last, since = -1, time.monotonic()
    while True:
        stage.keep(time.monotonic())
        open_jobs = straight.database.read(
            lambda connection: connection.execute(
                select(func.count()).where(jobs.c.status.not_in(FINISHED))
            ).scalar_one()
        )
        unfed = len(feeder.jobs) - len(feeder.accepted)
        if open_jobs + unfed == 0:
            return
        if open_jobs + unfed != last:
            last, since = open_jobs + unfed, time.monotonic()
        if time.monotonic() - since > STALLED_SECONDS:
            say(f"{open_jobs} jobs do not end, {unfed} were never accepted\n{stage.reported()}")
            return
        threading.Event().wait(0.2)


def _judge(stage: Stage, straight: Runtime, feeder: Feeder) -> Findings:
    claims = straight.database.read(read_claims)
    findings = Judge(
        read_observed(stage.observed), claims, feeder.accepted, frozenset(feeder.cancelled), concurrency_of
    ).judge()
    if feeder.failure:
        findings.failures.append(f"a call failed with no answer that the API knows: {feeder.failure}")
    findings.lost += [
        f"key {wanted.key} was never accepted" for wanted in feeder.jobs if wanted.key not in feeder.accepted
    ]
    counted = Counter(job["unique_key"] for job in claims.jobs.values())
    lied = feeder.lied | {key for key, count in counted.items() if count > 1 and key not in feeder.unknown}
    findings.contradictions += [f"key {key}: refused as unavailable, and accepted all the same" for key in sorted(lied)]
    findings.invariants += _not_quiet(straight)
    for part in stage.parts:
        strange = [code for code in part.exits if code not in EXPECTED_EXITS and code >= 0]
        if part.exits[1] == part.unserved:
            strange = [code for code in strange if code != 1]
        if strange:
            findings.failures.append(f"{part.name} ended with {strange}; see its log")
    return findings


def _not_quiet(straight: Runtime) -> list[str]:
    """What Redis still holds although no job is open; and what its own check finds."""
    end = time.monotonic() + QUIET_SECONDS
    while True:
        try:
            held = _held(straight)
        except (BrokerConnectionError, QueueError) as error:
            held = [f"Redis cannot be asked: {error}"]
        if not held or time.monotonic() > end:
            return held
        threading.Event().wait(0.2)


def _held(straight: Runtime) -> list[str]:
    held = []
    for lane in straight.lanes:
        totals = straight.broker.queues_admin.totals(lane)
        if totals.waiting or totals.delayed or totals.active or totals.buried:
            held.append(f"lane {lane} holds {totals} although every job has ended")
    return held


def _left_over(stage: Stage) -> list[str]:
    """Processes of workers that outlived them all."""
    end = time.monotonic() + 60
    helpers = {stage.valkey.process.pid} if stage.valkey is not None else set()
    while True:
        left = [each for each in stage.step_processes() if each.pid not in helpers and not _is_helper(each.cmdline())]
        if not left or time.monotonic() > end:
            return [f"{each.pid} {' '.join(each.cmdline())[:200]}" for each in left]
        threading.Event().wait(0.2)


def _is_helper(command: list[str]) -> bool:
    return any(name in command for name in ("tests.chaos.observer", "tests.chaos.proxy"))


def _keep(stage: Stage, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in stage.folder.glob("*.log"):
        shutil.copy(path, folder)
    shutil.copy(stage.observed, folder)
    if stage.kind == "sqlite":
        shutil.copy(stage.folder / "onelane.db", folder)
