"""One attempt in this process, with a database that fails at chosen moments: what becomes of step and message."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from orchestrator import metrics
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.posix import now
from orchestrator.runtime import Runtime
from orchestrator.worker.execution import Execution
from tenants.database.transactions import CommitUnknown, Database
from tenants.errors import Unavailable
from tenants.store import workers
from tenants.store.jobs.create import JobPlan
from tenants.store.jobs.read import fetch_steps
from tenants.store.steps import finish as finish_steps
from tests.orchestrator.conftest import make_service
from tests.orchestrator.worker.leased import WORKER, Leased


class Unlucky(Database):
    """Writes take effect, and the answers of those that are listed in `lost` (by their number, from 1) do not come."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.writes = 0
        self.lost: set[int] = set()
        #: Called before each write.
        self.before: Callable[[int], None] = lambda number: None

    def write(self, work: Any) -> Any:
        return self._count(lambda: Database.write(self, work))

    def batch(self, run_all: Any, item: Any) -> Any:
        return self._count(lambda: Database.batch(self, run_all, item))

    def _count(self, run: Callable[[], Any]) -> Any:
        self.writes += 1
        number = self.writes
        self.before(number)
        result = run()
        if number in self.lost:
            raise CommitUnknown("the answer was lost")
        return result


@dataclass
class Stand:
    runtime: Runtime
    database: Unlucky
    execution: Execution
    guard: Guard

    def make(self, do: str = "return", pipeline: str = "quick") -> tuple[str, str]:
        job, _ = self.runtime.jobs.create("acme", JobPlan(pipeline, {"do": do}))
        return str(job["id"]), str(job["steps"][0]["id"])

    def run(self, step_id: str, message: Leased | None = None) -> Leased:
        message = message or Leased()
        self.execution.run(step_id, message)  # type: ignore[arg-type]
        return message

    def job(self, job_id: str) -> dict[str, Any]:
        return self.runtime.jobs.get(job_id)


@pytest.fixture
def stand(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Stand]:
    runtime = make_service(migrated_url, redis_url, tmp_path).runtime
    runtime.database.write(
        lambda c: workers.register(c, id=WORKER, host="here", pid=1, lanes=["quick", "last"], threads=1)
    )
    database = Unlucky(migrated_url)
    guard = Guard()
    own, runtime.database = runtime.database, database
    execution = Execution(runtime, worker_id=WORKER, sandbox=None, guard=guard)
    yield Stand(runtime, database, execution, guard)
    guard.heartbeat.close()
    runtime.close()
    own.close()


def refused() -> float:
    return float(metrics.REFUSED_WRITES._value.get())


def outcomes_of(job: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in job["steps"][0]["attempts"]]


def test_a_start_whose_answer_was_lost_strands_nothing(stand: Stand) -> None:
    job_id, step_id = stand.make()
    stand.database.lost = {1}
    assert stand.run(step_id).rescheduled, "the message comes back"
    assert stand.job(job_id)["steps"][0]["status"] == "running", "nobody runs it, and its worker lives"
    stand.execution.hand_back_orphaned()
    assert stand.job(job_id)["steps"][0]["status"] == "running", "seen once: it could be a start under way"
    stand.execution.hand_back_orphaned()
    step = stand.job(job_id)["steps"][0]
    assert (step["status"], step["attempt"]) == ("retrying", 0)
    stand.run(step_id)
    assert stand.job(job_id)["status"] == "completed"


def test_a_completion_whose_answer_was_lost_counts_once(stand: Stand) -> None:
    job_id, step_id = stand.make()
    before = refused()
    stand.database.lost = {3}  # after the start and the step's own progress
    stand.run(step_id)
    job = stand.job(job_id)
    assert (job["status"], outcomes_of(job)) == ("completed", ["completed"])
    assert refused() == before, "it was no late write"


def test_a_retry_whose_answer_was_lost_keeps_its_message(stand: Stand) -> None:
    job_id, step_id = stand.make("fail_once")
    stand.database.lost = {2}
    message = stand.run(step_id)
    assert stand.job(job_id)["steps"][0]["status"] == "retrying"
    assert message.rescheduled, "settled, it would be gone, and the step would wait for ever"


@pytest.mark.parametrize("lost", [set(), {2}])
def test_a_retry_whose_message_redis_has_lost_is_sent_anew(stand: Stand, lost: set[int]) -> None:
    """Redis was emptied while the step ran, and rebuilt with what waited then."""
    job_id, step_id = stand.make("fail_once")
    stand.database.lost = lost
    stand.run(step_id, Leased(is_known=False))
    (step,) = stand.runtime.database.read(lambda connection: fetch_steps(connection, job_id))
    assert (step["status"], step["dispatched_at"]) == ("retrying", None)


def test_a_late_result_is_refused_logged_and_counted(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """The step is taken away while it runs, as by a rescuer; its result comes afterwards."""
    job_id, step_id = stand.make()
    before = refused()

    def take_away(number: int) -> None:
        if number != 2:
            return

        def work(connection: Connection) -> None:
            step = fetch_steps(connection, job_id)[0]
            finish_steps.lose(connection, step["id"], step["run_token"])

        stand.runtime.database.write(work)

    stand.database.before = take_away
    with caplog.at_level(logging.WARNING):
        stand.run(step_id)
    job = stand.job(job_id)
    assert (job["steps"][0]["status"], outcomes_of(job)) == ("retrying", ["lost"])
    assert refused() == before + 1
    assert "its result is refused" in caplog.text


def test_an_outcome_is_written_when_the_database_is_back(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.worker.outcome_writer.WRITE_RETRY_SECONDS", 0.01)
    job_id, step_id = stand.make()

    def away(number: int) -> None:
        if 3 <= number <= 7:
            raise Unavailable("away")

    stand.database.before = away
    stand.run(step_id)
    job = stand.job(job_id)
    assert (job["status"], outcomes_of(job)) == ("completed", ["completed"])


@pytest.mark.parametrize("output", [{"x": float("nan")}, {"x": {1, 2}}, {"x": object()}, "text", None])
def test_an_output_that_cannot_be_kept_fails_the_step(
    stand: Stand, output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.orchestrator import pipelines

    monkeypatch.setattr(pipelines, "obey", lambda ctx: output)
    job_id, step_id = stand.make()
    stand.run(step_id)
    job = stand.job(job_id)
    assert (job["status"], job["error"]["code"], outcomes_of(job)) == ("failed", "step_failed", ["failed"])


def test_an_error_of_our_own_loses_no_message(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, step_id = stand.make()

    def broken(number: int) -> None:
        raise RuntimeError("a fault in the worker")

    stand.database.before = broken
    assert stand.run(step_id).rescheduled
    stand.database.before = lambda number: None
    stand.run(step_id)
    assert stand.job(job_id)["status"] == "completed"


def test_each_call_of_a_worker_that_was_stopped_for_too_long_is_refused(
    stand: Stand,
) -> None:
    """A thread step goes on when its process is continued; until that process ends, all it asks for is refused."""
    stand.guard.heartbeat.renew(now() - 8.5)
    job_id, step_id = stand.make()
    stand.run(step_id)
    (attempt,) = stand.job(job_id)["steps"][0]["attempts"]
    assert attempt["outcome"] == "lost"
    silent = re.search(r"has not renewed its liveness for ([\d.]+) s", attempt["error"]["message"])
    assert silent is not None
    assert float(silent[1]) >= 8.5
    stand.guard.heartbeat.renew(now())
    stand.run(step_id)
    assert stand.job(job_id)["status"] == "completed"
