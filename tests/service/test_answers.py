"""What is answered when jobs are made is what a reader finds afterwards, to the last field, one by one and in bulk."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from orchestrator.jobs import NewJob
from orchestrator.runtime import Runtime
from tenants.store import bulk
from tenants.store.jobs import JobFilter

from .conftest import make_service

INPUT = {"do": "return", "folder": 'quoted "text", \\ and 文字 😀'}


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    made = make_service(migrated_url, redis_url, tmp_path).runtime
    yield made
    made.close()


def test_a_new_job_is_answered_as_it_is_read(runtime: Runtime) -> None:
    elsewhere = datetime.now(timezone(timedelta(hours=9, minutes=30))) + timedelta(hours=1)
    for job in (
        NewJob("chain", INPUT),
        NewJob(
            "patient", INPUT, approval=True, tags=("a", "文"), expires_in=5, deadline=7.25, unique_key="k", priority=0
        ),
        NewJob("quick", INPUT, approval=True, callback_url="https://example.com/x"),
        NewJob("quick", INPUT, run_at=elsewhere),
        NewJob("quick", INPUT, run_at=datetime(2020, 1, 1, tzinfo=UTC)),
        NewJob("quick", INPUT, delay=3.3333333),
    ):
        made, is_new = runtime.jobs.create("acme", job)
        assert is_new
        assert made == runtime.jobs.get(made["id"])
        assert made["run_at"].tzinfo is UTC


@pytest.mark.parametrize("number", [2, 3 * bulk.MANY])
def test_a_batch_is_answered_as_it_is_listed(runtime: Runtime, number: int) -> None:
    """Both ways of inserting, with a job among them that was there before."""
    known, _ = runtime.jobs.create("acme", NewJob("quick", INPUT, unique_key="k"))
    batch = [NewJob("chain", INPUT, tags=(str(n),), priority=n % 10, delay=float(n % 3)) for n in range(number)]
    made = runtime.jobs.create_many("acme", [*batch, NewJob("quick", INPUT, unique_key="k")])
    assert made[-1]["id"] == known["id"]
    listed, _ = runtime.jobs.list(JobFilter(), limit=200)
    assert {job["id"]: job for job in made} == {job["id"]: job for job in listed}
    assert [job["id"] for job in reversed(listed)] == [known["id"], *(job["id"] for job in made[:-1])]
    for job in made[:-1]:
        whole = runtime.jobs.get(job["id"])
        assert (whole["input"], [step["name"] for step in whole["steps"]]) == (INPUT, ["quick", "last", "extra"])
        assert [step["status"] for step in whole["steps"]] == ["queued", "pending", "pending"]
