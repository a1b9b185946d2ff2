"""The verdict: the observer's file against what the database claims. Pure functions over both, tested on their own."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from tenants.database.models import Attempt, Job, Publication, Step
from tenants.store.jobs.read import FINISHED
from tenants.store.steps.finish import LOST_BUDGET

jobs, steps, attempts, publications = Job.__table__, Step.__table__, Attempt.__table__, Publication.__table__

#: The observer notices a step that began before its job ended this much later at most (one host, one wall clock).
SLACK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Claims:
    """What the database says at the end: rows as mappings."""

    jobs: Mapping[str, Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    attempts: Sequence[Mapping[str, Any]]
    #: By job id.
    publications: Mapping[str, Mapping[str, Any]]


@dataclass
class Findings:
    """Everything that must not be; each entry is a sentence. Empty lists are what the promises say."""

    overlaps: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    invariants: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(self.by_kind().values())

    def by_kind(self) -> dict[str, list[str]]:
        return dict(vars(self))


def read_observed(path: Path) -> list[dict[str, Any]]:
    """The observer's file, in its order."""
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def read_claims(connection: Connection) -> Claims:
    def rows(table: Any) -> Sequence[Mapping[str, Any]]:
        return [dict(row) for row in connection.execute(select(table)).mappings()]

    return Claims(
        jobs={row["id"]: row for row in rows(jobs)},
        steps=rows(steps),
        attempts=rows(attempts),
        publications={row["job_id"]: row for row in rows(publications)},
    )


@dataclass
class Judge:
    """Compares; `accepted`: by key the id that was answered with 202; `cancelled`: ids that somebody cancelled."""

    observed: Sequence[Mapping[str, Any]]
    claims: Claims
    accepted: Mapping[str, str]
    cancelled: frozenset[str]
    #: The concurrency of (account, lane).
    concurrency: Callable[[str, str], int]
    findings: Findings = field(default_factory=Findings)

    def judge(self) -> Findings:
        self._index()
        self._overlaps()
        self._lost_jobs()
        self._outcomes()
        self._late_effects()
        self._unrecorded_runs()
        self._posts()
        self._open_rows()
        return self.findings

    def _index(self) -> None:
        self._begun: dict[str, Mapping[str, Any]] = {}
        self._ended: set[str] = set()
        self._begins: Counter[tuple[str, str]] = Counter()
        self._posted: Counter[str] = Counter()
        for noted in self.observed:
            match noted["event"]:
                case "begin":
                    self._begun[noted["id"]] = noted
                    self._begins[noted["job"], noted["step"]] += 1
                case "end":
                    self._ended.add(noted["id"])
                case "post":
                    self._posted[noted["marker"]] += 1

    def _overlaps(self) -> None:
        """P1: never more than the concurrency at a time, by the observer's own order of events."""
        by_run = {noted["run"]: noted for noted in self.observed if noted["event"] == "begin"}
        for noted in by_run.values():
            lane = noted["queue"].removesuffix("_" + noted["account"])
            if len(noted["beside"]) >= self.concurrency(noted["account"], lane):
                others = ", ".join(_run_text(by_run[run]) for run in noted["beside"])
                self.findings.overlaps.append(f"{noted['at']:.2f} {_run_text(noted)} began beside {others}")

    def _lost_jobs(self) -> None:
        """P2: what was accepted is there and came to an end."""
        for key, job_id in self.accepted.items():
            job = self.claims.jobs.get(job_id)
            if job is None:
                self.findings.lost.append(f"job {job_id} (key {key}) was accepted and is not there")
            elif job["status"] not in FINISHED:
                states = [
                    {name: step[name] for name in ("name", "status", "attempt", "dispatched_at", "due_at", "worker_id")}
                    for step in self.claims.steps
                    if step["job_id"] == job_id
                ]
                self.findings.lost.append(f"job {job_id} (key {key}) is still {job['status']}: {states}")

    def _outcomes(self) -> None:
        """P3: a completed step's run was seen from begin to end; jobs fail only for reasons that are in the game."""
        lost = {step["job_id"]: step["lost"] for step in self.claims.steps if step["lost"] >= LOST_BUDGET}
        for step in self.claims.steps:
            if step["status"] != "completed":
                continue
            run = (step["output"] or {}).get("run")
            if run not in self._begun or run not in self._ended:
                self.findings.contradictions.append(
                    f"step {step['name']} of job {step['job_id']} is completed by run {run}, which was not seen to end"
                )
        for job_id, job in self.claims.jobs.items():
            if job["status"] in ("completed", *("scheduled", "queued", "running")):
                continue
            if job["status"] == "cancelled" and job_id in self.cancelled:
                continue
            if (job["error"] or {}).get("code") == "lost" and job_id in lost:
                continue  # it was hit more often than the budget for lost attempts allows, and says so
            self.findings.failures.append(f"job {job_id} ({job['pipeline']}) is {job['status']}: {job['error']}")

    def _late_effects(self) -> None:
        """Nothing begins for a job that has ended, or that nobody knows."""
        for noted in self._begun.values():
            job = self.claims.jobs.get(noted["job"])
            if job is None:
                self.findings.contradictions.append(f"{_run_text(noted)} ran for a job that is not there")
            elif job["finished_at"] is not None:
                late = noted["wall"] - job["finished_at"].timestamp()
                if late > SLACK_SECONDS:
                    self.findings.contradictions.append(
                        f"{_run_text(noted)} began {late:.2f} s after its job was {job['status']}"
                    )

    def _unrecorded_runs(self) -> None:
        """Every run that was seen has an attempt's row of its own."""
        rows = Counter(each["step_id"] for each in self.claims.attempts)
        recorded = Counter[tuple[str, str]]()
        for step in self.claims.steps:
            recorded[step["job_id"], step["name"]] += rows[step["id"]]
        for (job_id, name), count in self._begins.items():
            if count > recorded[job_id, name]:
                self.findings.contradictions.append(
                    f"step {name} of job {job_id} began {count} times and has {recorded[job_id, name]} attempts"
                )

    def _posts(self) -> None:
        """P6: at most one post per marker; confirmed means one, and none that the ledger does not know."""
        for marker, count in self._posted.items():
            if count > 1:
                self.findings.doubled.append(f"{marker} was posted {count} times")
        known = {row["marker"]: row for row in self.claims.publications.values()}
        for marker in self._posted:
            if marker not in known or known[marker]["status"] == "intent":
                status = known[marker]["status"] if marker in known else "unknown to the ledger"
                self.findings.contradictions.append(f"{marker} was posted and is {status}")
        for marker, row in known.items():
            if row["status"] == "confirmed" and not self._posted[marker]:
                self.findings.contradictions.append(f"{marker} is confirmed and was never posted")
        for job_id, job in self.claims.jobs.items():
            entry = self.claims.publications.get(job_id)
            posted = job["pipeline"] == "post" and job["status"] == "completed"
            if posted and (entry is None or entry["status"] != "confirmed"):
                self.findings.lost.append(f"job {job_id} is completed without a confirmed post")

    def _open_rows(self) -> None:
        """What ended has left nothing open."""
        for step in self.claims.steps:
            job = self.claims.jobs[step["job_id"]]
            if job["status"] in FINISHED and step["status"] in ("running", "queued", "retrying"):
                self.findings.contradictions.append(
                    f"step {step['name']} of job {job['id']} is {step['status']}, and the job is {job['status']}"
                )
        running = {step["id"] for step in self.claims.steps if step["status"] == "running"}
        for attempt in self.claims.attempts:
            if attempt["finished_at"] is None and attempt["step_id"] not in running:
                self.findings.contradictions.append(f"attempt {attempt['id']} of step {attempt['step_id']} never ended")


def recovery_seconds(observed: Iterable[Mapping[str, Any]]) -> list[float]:
    """From each run that died to the next begin of its step."""
    begun: dict[int, Mapping[str, Any]] = {}
    died: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    found = []
    for noted in observed:
        if noted["event"] == "begin":
            begun[noted["run"]] = noted
            found += [noted["at"] - moment for moment in died.pop((noted["job"], noted["step"]), ())]
        elif noted["event"] == "gone" and noted["run"] in begun:
            begin = begun[noted["run"]]
            died[begin["job"], begin["step"]].append(noted["at"])
    return found


def kill_recovery_seconds(
    kills: Iterable[tuple[float, int]], observed: Iterable[Mapping[str, Any]], claims: Claims
) -> list[float]:
    """From each kill of a worker (monotonic time, pid) to the next begin in each tenant queue that it ran something of.

    The observer sees a run die, and the database says with which worker it was lost; the kill's time is the
    controller's. All are of one host and one clock.
    """
    lost_with: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    names = {step["id"]: (step["job_id"], step["name"]) for step in claims.steps}
    for attempt in claims.attempts:
        if attempt["outcome"] == "lost":
            lost_with[names[attempt["step_id"]]].add(_pid_of(attempt["worker"]))
    killed_at = {pid: at for at, pid in kills}
    begun: dict[int, Mapping[str, Any]] = {}
    waiting: defaultdict[str, set[float]] = defaultdict(set)
    found = []
    for noted in observed:
        if noted["event"] == "begin":
            begun[noted["run"]] = noted
            found += [noted["at"] - at for at in waiting.pop(noted["queue"], ())]
        elif noted["event"] == "gone" and noted["run"] in begun:
            begin = begun[noted["run"]]
            times = [killed_at[pid] for pid in lost_with[begin["job"], begin["step"]] if pid in killed_at]
            waiting[begin["queue"]].update(sorted(at for at in times if at <= noted["at"])[-1:])
    return found


def _pid_of(worker_id: str) -> int:
    """Of ``host-pid-suffix``."""
    return int(worker_id.rsplit("-", 2)[1])


def _run_text(noted: Mapping[str, Any]) -> str:
    return (
        f"run {noted['id'][:8]} (job {noted['job']}, step {noted['step']}, attempt {noted['attempt']}, "
        f"pid {noted['pid']}, queue {noted['queue']})"
    )
