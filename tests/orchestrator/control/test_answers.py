"""What is answered when jobs are made is what a reader finds afterwards, to the last field, one by one and in bulk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from orchestrator.runtime import Runtime
from tenants.database.models import Account, Event, Job, Step, Usage
from tenants.database.transactions import CommitUnknown
from tenants.errors import AccountDraining, AccountSuspended, InvalidInput, QueueFull, QuotaExhausted
from tenants.store import bulk, postgres_fast_path
from tenants.store.jobs.create import JobPlan
from tenants.store.jobs.lists import JobFilter
from tests.orchestrator.conftest import make_service

INPUT = {"do": "return", "folder": 'quoted "text", \\ and 文字 😀'}


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    made = make_service(migrated_url, redis_url, tmp_path).runtime
    yield made
    made.close()


def test_a_new_job_is_answered_as_it_is_read(runtime: Runtime) -> None:
    elsewhere = datetime.now(timezone(timedelta(hours=9, minutes=30))) + timedelta(hours=1)
    for job in (
        JobPlan("chain", INPUT),
        JobPlan(
            "patient", INPUT, approval=True, tags=("a", "文"), expires_in=5, deadline=7.25, unique_key="k", priority=0
        ),
        JobPlan("patient", INPUT, approval=True, tags=("a", "文"), expires_in=5.3333333, deadline=7.25, priority=0),
        JobPlan("quick", INPUT, approval=True, callback_url="https://example.com/x"),
        JobPlan("quick", INPUT, run_at=elsewhere),
        JobPlan("quick", INPUT, run_at=datetime(2020, 1, 1, tzinfo=UTC)),
        JobPlan("quick", INPUT, delay=3.3333333),
    ):
        made, is_new = runtime.jobs.create("acme", job)
        assert is_new
        assert made == runtime.jobs.get(made["id"])
        assert made["run_at"].tzinfo is UTC


def test_both_implementations_create_the_same_rows(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, usage and rows, by PostgreSQL's fast path and by the portable implementation."""
    job = JobPlan("chain", INPUT, tags=("a",), expires_in=60, deadline=5, approval=True)
    runtime.jobs.create("first", job)
    runtime.jobs.create("quick", job)
    with monkeypatch.context() as portable:
        portable.setattr(postgres_fast_path, "may_create", lambda _: False)
        runtime.jobs.create("long", job)
        runtime.jobs.create("long", job)
    runtime.jobs.create("quick", job)

    def left(connection: Connection, account: str) -> list[Any]:
        found: list[Any] = []
        for table, hidden in (
            (Job.__table__, {"seq", "id"}),
            (Step.__table__, {"id", "job_id", "sequence", "dispatched_at"}),
            (Event.__table__, {"seq", "job_id"}),
            (Usage.__table__, set()),
        ):
            rows = connection.execute(select(table).where(table.c.account == account)).mappings().all()
            found += [
                {name: str(type(value)) if isinstance(value, datetime) else value for name, value in row.items()}
                for row in rows
            ]
            for row in found[-len(rows) :]:
                row.update(dict.fromkeys(hidden | {"account"}))
        return found

    quick = runtime.database.read(lambda connection: left(connection, "quick"))
    long = runtime.database.read(lambda connection: left(connection, "long"))
    assert quick == long
    assert len(quick) == 2 + 6 + 2 + 1


@pytest.mark.parametrize(
    ("row", "refusal"),
    [
        ({"status": "draining"}, AccountDraining),
        ({"status": "suspended"}, AccountSuspended),
        ({"limits": {"max_waiting": 1}}, QueueFull),
        ({"limits": {"daily_quota": 1}}, QuotaExhausted),
    ],
)
def test_the_fast_path_refuses_and_accepts_what_the_general_path_does(
    runtime: Runtime, row: dict[str, Any], refusal: type[Exception]
) -> None:
    runtime.jobs.create("acme", JobPlan("quick", INPUT))
    runtime.database.write(lambda connection: connection.execute(update(Account.__table__).values(**row)))
    with pytest.raises(refusal):
        runtime.jobs.create("acme", JobPlan("quick", INPUT))
    assert len(runtime.jobs.list(JobFilter())[0]) == 1


def test_an_answer_that_was_lost_makes_no_second_job(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit took effect, and its connection was lost before the answer came."""
    runtime.jobs.create("acme", JobPlan("quick", INPUT))
    real = runtime.database.batch

    def lose_the_answer(*arguments: Any) -> None:
        monkeypatch.undo()
        real(*arguments)
        raise CommitUnknown("the connection was lost")

    monkeypatch.setattr(runtime.database, "batch", lose_the_answer)
    made, is_new = runtime.jobs.create("acme", JobPlan("quick", INPUT))
    assert is_new
    assert made == runtime.jobs.get(made["id"])
    assert len(runtime.jobs.list(JobFilter())[0]) == 2


@pytest.mark.parametrize("number", [2, 3 * bulk.MANY])
def test_a_batch_is_answered_as_it_is_listed(runtime: Runtime, number: int) -> None:
    """Both ways of inserting, with a job among them that was there before."""
    known, _ = runtime.jobs.create("acme", JobPlan("quick", INPUT, unique_key="k"))
    batch = [JobPlan("chain", INPUT, tags=(str(n),), priority=n % 10, delay=float(n % 3)) for n in range(number)]
    made = runtime.jobs.create_many("acme", [*batch, JobPlan("quick", INPUT, unique_key="k")])
    assert made[-1]["id"] == known["id"]
    listed, _ = runtime.jobs.list(JobFilter(), limit=200)
    assert {job["id"]: job for job in made} == {job["id"]: job for job in listed}
    assert [job["id"] for job in reversed(listed)] == [known["id"], *(job["id"] for job in made[:-1])]
    for job in made[:-1]:
        whole = runtime.jobs.get(job["id"])
        assert (whole["input"], [step["name"] for step in whole["steps"]]) == (INPUT, ["quick", "last", "extra"])
        assert [step["status"] for step in whole["steps"]] == ["queued", "pending", "pending"]


@pytest.mark.parametrize(
    ("character", "said"),
    [("\x00", "the character U+0000 is not allowed"), ("\ud800", "a lone surrogate is not a character")],
)
@pytest.mark.parametrize("number", [1, 2, 3 * bulk.MANY])
def test_what_no_database_takes_is_refused_however_many_jobs_there_are(
    runtime: Runtime, number: int, character: str, said: str
) -> None:
    """PostgreSQL took it from a few jobs, and failed with an error of its own from many."""
    for bad in (
        JobPlan("quick", {**INPUT, "folder": f"a{character}b"}),
        JobPlan("quick", INPUT, tags=(f"a{character}",)),
        JobPlan("quick", INPUT, unique_key=f"a{character}"),
    ):
        batch = [*[JobPlan("quick", INPUT)] * (number - 1), bad]
        with pytest.raises(InvalidInput) as refused:
            runtime.jobs.create_many("acme", batch)
        assert [fault.message for fault in refused.value.faults] == [said]
        assert refused.value.faults[0].loc[:2] == ("jobs", number - 1)
        with pytest.raises(InvalidInput, match=re.escape(said)):
            runtime.jobs.create("acme", bad)
    assert runtime.jobs.list(JobFilter())[0] == []
    made, _ = runtime.jobs.create("acme", JobPlan("quick", INPUT, tags=("a\\u0000",)))
    assert made["tags"] == ["a\\u0000"], "six characters, none of them U+0000"
