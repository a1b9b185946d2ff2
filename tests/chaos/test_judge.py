"""The judge finds what it is there to find: each violation, made by hand, and nothing in a clean run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .attacks import plan_attacks
from .judge import Claims, Findings, Judge, kill_recovery_seconds, recovery_seconds
from .stage import _NO_SERVER, _last_line
from .workload import plan_jobs

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def begin(run: int, *, job: str = "j1", step: str = "quick", beside: tuple[int, ...] = (), **more: Any) -> Any:
    return {
        "event": "begin",
        "run": run,
        "id": f"run-{run}",
        "at": float(run),
        "wall": NOW.timestamp(),
        "queue": "quick_acme",
        "account": "acme",
        "job": job,
        "step": step,
        "attempt": 1,
        "pid": 1,
        "beside": list(beside),
        **more,
    }


def end(run: int) -> Any:
    return {"event": "end", "run": run, "id": f"run-{run}", "at": run + 0.5}


def claims(**changes: Any) -> Claims:
    """One job of one step, done by run 1."""
    job: dict[str, Any] = {"id": "j1", "account": "acme", "pipeline": "quick", "status": "completed", "error": None}
    job |= {"finished_at": NOW + timedelta(seconds=5), "unique_key": "k1"}
    step = {"id": "s1", "job_id": "j1", "name": "quick", "status": "completed", "output": {"run": "run-1"}, "lost": 0}
    step |= {"attempt": 1, "dispatched_at": None, "due_at": None, "worker_id": None}
    attempt = {"id": "a1", "step_id": "s1", "finished_at": NOW, "outcome": "completed"}
    return Claims(
        jobs={"j1": {**job, **changes.get("job", {})}},
        steps=[{**step, **changes.get("step", {})}],
        attempts=changes.get("attempts", [attempt]),
        publications=changes.get("publications", {}),
    )


def judge(observed: list[Any], said: Claims, accepted: dict[str, str] | None = None) -> Findings:
    return Judge(observed, said, accepted or {"k1": "j1"}, frozenset(), lambda account, lane: 1).judge()


def test_a_clean_run_has_no_findings() -> None:
    assert judge([begin(1), end(1)], claims()).ok


ENTRY = {"marker": "m", "status": "confirmed", "job_id": "j1"}
POST = {"event": "post", "run": 1, "id": "run-1", "marker": "m", "at": 1.2}


@pytest.mark.parametrize(
    ("kind", "observed", "said"),
    [
        ("overlaps", [begin(1), begin(2, beside=(1,)), end(1), end(2)], claims()),
        ("lost", [begin(1), end(1)], claims(job={"status": "queued", "finished_at": None})),
        ("contradictions", [begin(1)], claims()),
        ("contradictions", [begin(1), end(1), begin(2)], claims()),
        ("contradictions", [begin(1), end(1), begin(2, wall=(NOW + timedelta(seconds=9)).timestamp())], claims()),
        ("contradictions", [begin(1), end(1)], claims(step={"status": "running"})),
        ("contradictions", [begin(1), end(1)], claims(attempts=[{"id": "a1", "step_id": "s1", "finished_at": None}])),
        ("failures", [begin(1), end(1)], claims(job={"status": "failed", "error": {"code": "internal"}})),
        ("doubled", [begin(1), POST, POST, end(1)], claims(publications={"j1": ENTRY})),
        ("contradictions", [begin(1), POST, end(1)], claims()),
        ("contradictions", [begin(1), end(1)], claims(publications={"j1": ENTRY})),
    ],
)
def test_each_violation_is_found(kind: str, observed: list[Any], said: Claims) -> None:
    assert judge(observed, said).by_kind()[kind]


def test_an_accepted_job_that_is_not_there_is_lost() -> None:
    assert judge([begin(1), end(1)], claims(), {"k1": "j1", "k2": "gone"}).lost


def test_recovery_counts_from_a_death_to_the_next_begin_of_its_step() -> None:
    gone = {"event": "gone", "run": 1, "at": 3.0}
    other = begin(2, job="j2", at=4.0)
    assert recovery_seconds([begin(1), gone, other, begin(3, at=9.5)]) == [6.5]


def test_recovery_from_a_kill_counts_to_the_queues_next_effect() -> None:
    """Only for what the killed worker ran: run 1 was lost with it; run 2 died by something else."""
    said = claims(
        attempts=[{"id": "a1", "step_id": "s1", "finished_at": NOW, "outcome": "lost", "worker": "host-7-ab"}]
    )
    other: dict[str, Any] = {"job": "j2", "queue": "quick_other"}
    observed = [
        begin(1, at=1.0),
        begin(2, at=1.1, **other),
        {"event": "gone", "run": 1, "at": 3.0},
        {"event": "gone", "run": 2, "at": 3.1},
        begin(4, at=4.0, **other),
        begin(5, at=9.5, job="j3"),
        begin(6, at=11.0),
    ]
    assert kill_recovery_seconds([(2.5, 7), (2.6, 8)], observed, said) == [7.0]
    assert kill_recovery_seconds([(2.6, 8)], observed, said) == []


def test_why_a_part_ended_is_reported_by_the_line_on_which_the_error_begins(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(
        "Traceback (most recent call last):\n  File ...\n"
        "tenants.errors.Unavailable: the database failed: server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.\n\n"
    )
    assert _last_line(log).startswith(_NO_SERVER)
    log.write_text("")
    assert _last_line(log) == ""


def test_a_seed_gives_the_same_jobs_and_attacks() -> None:
    jobs = {"jobs": 50, "accounts": 10, "seconds": 10.0}
    assert plan_jobs(3, **jobs) == plan_jobs(3, **jobs) != plan_jobs(4, **jobs)  # type: ignore[arg-type]
    around: dict[str, Any] = {"seconds": 200, "every": 2, "workers": ["w"], "controls": ["c"], "sql": True}
    assert plan_attacks(3, **around) == plan_attacks(3, **around) != plan_attacks(4, **around)
