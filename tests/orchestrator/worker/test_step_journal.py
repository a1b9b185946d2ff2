"""Log lines and progress of running steps: batched, bounded, in order, and kept when the step dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.runtime import Runtime
from orchestrator.worker import step_journal
from orchestrator.worker.step_journal import JournalWriter, StepJournal
from tenants.database.models import Event, Job
from tenants.database.transactions import CommitUnknown, Database
from tenants.errors import OwnershipLost, Unavailable
from tenants.store import workers
from tenants.store.attempt import OwnedAttempt
from tenants.store.job_store import job_store
from tenants.store.jobs.create import JobPlan
from tenants.store.steps import finish as finish_steps
from tests.orchestrator.conftest import Service, make_service
from tests.support.ports import step_port


class Watched(Database):
    """Counts transactions, raises what stands in `fail` instead of one, and holds all while `may_write` is not set."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.writes = 0
        self.fail: list[Exception] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self._counted = threading.Condition()

    def write(self, work: Any) -> Any:
        with self._counted:
            self.writes += 1
            self._counted.notify_all()
        assert self.may_write.wait(60)
        if self.fail:
            raise self.fail.pop(0)
        return super().write(work)

    def wait_for_writes(self, count: int) -> None:
        with self._counted:
            assert self._counted.wait_for(lambda: self.writes >= count, 60)


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    made = make_service(migrated_url, redis_url, tmp_path).runtime
    made.database.write(lambda c: workers.register(c, id="w", host="h", pid=1, lanes=["quick"], threads=1))
    yield made
    made.close()


@pytest.fixture
def database(migrated_url: str) -> Iterator[Watched]:
    made = Watched(migrated_url)
    yield made
    made.close()


@pytest.fixture
def owned(runtime: Runtime) -> OwnedAttempt:
    job, _ = runtime.jobs.create("acme", JobPlan("quick", {"do": "return"}))
    started = job_store(runtime.database).start(job["steps"][0]["id"], worker_id="w", slot=0)
    assert isinstance(started, OwnedAttempt)
    return started


def events_of(runtime: Runtime, job_id: str, *types: str) -> list[dict[str, Any]]:
    table = Event.__table__
    statement = select(table.c.data).where(table.c.job_id == job_id, table.c.type.in_(types)).order_by(table.c.seq)
    return list(runtime.database.read(lambda connection: connection.execute(statement).scalars().all()))


def messages(runtime: Runtime, owned: OwnedAttempt) -> list[str]:
    return [data["message"] for data in events_of(runtime, owned.job_id, "log")]


def test_thousands_of_lines_are_kept_in_order_by_few_transactions(
    runtime: Runtime, database: Watched, owned: OwnedAttempt
) -> None:
    journal = StepJournal(owned, database)
    for number in range(5_000):
        journal.add_line("info", f"line {number}")
    journal.flush()
    assert messages(runtime, owned) == [f"line {number}" for number in range(5_000)]
    assert database.writes == 10


def test_a_flood_is_left_out_and_counted(runtime: Runtime, database: Watched, owned: OwnedAttempt) -> None:
    journal = StepJournal(owned, database)
    for number in range(step_journal.MAX_PENDING_LINES + 7):
        journal.add_line("info", str(number))
    journal.leave_out(10)
    journal.add_line("info", "too late")
    journal.flush()
    kept = messages(runtime, owned)
    assert kept[-2:] == ["4999", "18 log lines were left out: the step wrote faster than is kept"]
    long = "x" * 4_000
    for _ in range(step_journal.MAX_PENDING_CHARACTERS // len(long) + 3):
        journal.add_line("info", long)
    journal.flush()
    assert messages(runtime, owned)[-1].startswith("3 log lines were left out")


def test_only_the_last_progress_of_a_batch_is_written(runtime: Runtime, database: Watched, owned: OwnedAttempt) -> None:
    journal = StepJournal(owned, database)
    for percent in range(100):
        journal.set_progress(percent, f"at {percent}")
    journal.flush()
    journal.flush()
    assert database.writes == 1
    assert events_of(runtime, owned.job_id, "progress") == [{"step": "quick", "progress": 99, "note": "at 99"}]
    assert runtime.jobs.get(owned.job_id)["steps"][0]["progress"] == 99


def test_lines_are_written_in_time_while_the_step_says_nothing_more(
    runtime: Runtime, database: Watched, owned: OwnedAttempt
) -> None:
    journal = StepJournal(owned, database, JournalWriter().add)
    journal.add_line("info", "one")
    journal.add_line("info", "two")
    database.wait_for_writes(1)
    journal.flush()  # waits for the writer's transaction
    assert messages(runtime, owned) == ["one", "two"]
    assert database.writes == 1, "together"


def test_a_step_does_not_wait_for_a_database_that_is_slow(
    runtime: Runtime, database: Watched, owned: OwnedAttempt
) -> None:
    database.may_write.clear()
    journal = StepJournal(owned, database, JournalWriter().add)
    journal.add_line("info", "0")
    database.wait_for_writes(1)  # the writer is in its transaction
    for number in range(1, 2_000):
        journal.add_line("info", str(number))
    journal.set_progress(50, "half")
    database.may_write.set()
    journal.close()
    assert messages(runtime, owned) == [str(number) for number in range(2_000)]


def test_lines_outlive_a_database_that_is_away(runtime: Runtime, database: Watched, owned: OwnedAttempt) -> None:
    database.fail = [Unavailable("away"), Unavailable("away")]
    journal = StepJournal(owned, database, JournalWriter().add)
    journal.add_line("info", "one")
    journal.set_progress(10, "begun")
    database.wait_for_writes(3)
    journal.add_line("info", "two")
    journal.close()
    assert messages(runtime, owned) == ["one", "two"]
    assert runtime.jobs.get(owned.job_id)["steps"][0]["progress"] == 10


def test_a_commit_whose_answer_was_lost_is_not_repeated(
    runtime: Runtime, database: Watched, owned: OwnedAttempt
) -> None:
    database.fail = [CommitUnknown("lost")]
    journal = StepJournal(owned, database)
    journal.add_line("info", "perhaps")
    journal.add_line("info", "perhaps too")
    journal.close()
    assert database.writes == 1


def test_an_attempt_that_lost_its_step_leaves_its_lines_and_no_progress(
    runtime: Runtime, database: Watched, owned: OwnedAttempt
) -> None:
    journal = StepJournal(owned, database)
    port = step_port(runtime, owned, journal=journal)
    runtime.database.write(lambda c: finish_steps.lose(c, owned.step_id, owned.run_token))
    port.send("log", {"level": "info", "message": "the last line"})
    port.send("progress", {"percent": 70, "note": "late"})
    journal.flush()
    assert messages(runtime, owned) == ["the last line"]
    assert events_of(runtime, owned.job_id, "progress") == []
    with pytest.raises(OwnershipLost):  # a step in a thread, which nothing can kill, learns it here
        port.send("log", {"level": "info", "message": "still there?"})


def test_what_was_said_before_a_call_is_written_before_it(
    runtime: Runtime, database: Watched, owned: OwnedAttempt
) -> None:
    journal = StepJournal(owned, database)
    port = step_port(runtime, owned, journal=journal)
    port.send("log", {"level": "info", "message": "about to save"})
    port.send("progress", {"percent": 30, "note": "saving"})
    assert messages(runtime, owned) == []
    port.call("artifact.save", {"name": "a.txt", "content_type": "text/plain", "data": "YQ=="})
    assert messages(runtime, owned) == ["about to save"]
    assert events_of(runtime, owned.job_id, "progress") == [{"step": "quick", "progress": 30, "note": "saving"}]


def test_a_removed_step_gets_no_lines(runtime: Runtime, database: Watched, owned: OwnedAttempt) -> None:
    journal = StepJournal(owned, database)
    port = step_port(runtime, owned, journal=journal)
    runtime.database.write(lambda c: c.execute(Job.__table__.delete()))  # its steps and attempts go with it
    port.send("log", {"level": "info", "message": "of nothing"})
    journal.flush()
    assert messages(runtime, owned) == []


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_lines_arrive_whatever_ends_the_step(service: Service) -> None:
    """5,000 lines in a loop, then an end of each kind: of its own, killed, at its limit."""
    service.work(threads=4)
    made = {how: service.make("talker", account=how, do=how) for how in ("return", "exit", "hang", "fail")}
    for how, job_id in made.items():
        ended = service.wait(job_id)
        lines = [data["message"] for data in events_of(service.runtime, job_id, "log")]
        assert lines == [f"line {number}" for number in range(5_000)], (how, ended["error"], len(lines))
    thread = service.make("talker_here", account="thread", do="return")
    service.wait(thread)
    assert len(events_of(service.runtime, thread, "log")) == 5_000
    flooded = service.make("talker", account="flood", do="flood")
    assert service.wait(flooded)["status"] == "completed"
    lines = [data["message"] for data in events_of(service.runtime, flooded, "log")]
    left_out = [int(line.split()[0]) for line in lines if "were left out" in line]
    kept = len(lines) - len(left_out)
    assert sum(left_out) + kept == 50_000, "every line is kept or counted"
    assert 5_000 <= kept < 50_000
