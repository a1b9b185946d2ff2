"""Workers that are stopped and come back, and a tenant queue that is narrowed before Redis is lost."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from typing import Any

import psutil
import pytest
import redis
from sqlalchemy import Connection, update

from orchestrator.loops.reconciler import Reconciler
from tenants.database.models import Account
from tenants.errors import JobFinished
from tenants.store.accounts.accounts import ensure_account
from tests.orchestrator.conftest import Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def notes(service: Service, job_id: str) -> list[str]:
    path = service.settings.data_dir / "notes" / f"{job_id}.log"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def begin_both(service: Service) -> tuple[str, str]:
    """Two jobs whose steps wait, one in a process of its own and one in a thread; both have begun."""
    in_process = service.make("patient", account="in a process", do="wait")
    in_thread = service.make("quick", account="in a thread", do="wait")
    for job_id in (in_process, in_thread):
        service.until(lambda job_id=job_id: service.began(job_id), "the step to begin")  # type: ignore[misc]
    return in_process, in_thread


def test_a_stopped_worker_comes_back_to_nothing(service: Service) -> None:
    """SIGSTOP until its steps run elsewhere, then SIGCONT: nothing of the first attempts takes effect any more."""
    worker = service.work()
    in_process, in_thread = begin_both(service)
    worker.send_signal(signal.SIGSTOP)
    service.work()
    for job_id in (in_process, in_thread):
        service.until(
            lambda job_id=job_id: notes(service, job_id).count("start") == 2,  # type: ignore[misc]
            "the step to begin elsewhere",
        )
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(timeout=90) == -signal.SIGKILL, "its guard ended it while it was stopped"
    service.go()
    for job_id in (in_process, in_thread):
        job = service.wait(job_id)
        assert job["status"] == "completed"
        assert [attempt["outcome"] for attempt in job["steps"][0]["attempts"]] == ["lost", "completed"]
        assert notes(service, job_id) == ["start", "start", "end"]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)  # whose clock is not this host's to stop
def test_a_host_that_is_paused_comes_back_to_nothing(service: Service) -> None:
    """Worker, guard, supervisors and steps are stopped until the step runs elsewhere, so no process can watch it."""
    worker = service.work()
    in_process, in_thread = begin_both(service)
    host = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    assert {"onelane-guard", "step-supervisor", "onelane-step"} <= {each.name() for each in host}
    for each in host:
        each.suspend()
    service.work()
    for job_id in (in_process, in_thread):
        service.until(
            lambda job_id=job_id: notes(service, job_id).count("start") == 2,  # type: ignore[misc]
            "the step to begin elsewhere",
        )
    for each in host:
        each.resume()
    assert worker.wait(timeout=90) in (-signal.SIGKILL, 70)
    _, alive = psutil.wait_procs(host, timeout=60)
    assert not alive
    service.go()
    for job_id in (in_process, in_thread):
        job = service.wait(job_id)
        assert [attempt["outcome"] for attempt in job["steps"][0]["attempts"]] == ["lost", "completed"]
        assert notes(service, job_id) == ["start", "start", "end"]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_a_step_that_a_stopping_worker_cannot_end_waits_until_it_is_gone(service: Service) -> None:
    """A step in a thread outlives the grace: noting the stop would give it away while it goes on."""
    worker = service.work()
    job_id = service.make("quick", do="wait")
    service.until(lambda: service.began(job_id), "the step to begin")
    service.work()
    worker.send_signal(signal.SIGTERM)
    seen_at_the_end = []
    while worker.poll() is None:
        seen_at_the_end = notes(service, job_id)
        threading.Event().wait(0.05)
    assert seen_at_the_end == ["start"]
    assert worker.returncode == 0
    assert len(service.live_workers()) == 2, "it counts as alive until its time is over, and keeps its step until then"
    assert service.job(job_id)["steps"][0]["status"] == "running"


def set_concurrency(service: Service, account: str, lane: str, number: int) -> None:
    limits = {"lanes": {lane: {"concurrency": number}}}

    def work(connection: Connection) -> Any:
        ensure_account(connection, account)
        table = Account.__table__
        connection.execute(update(table).where(table.c.id == account).values(limits=limits))

    service.runtime.database.write(work)
    service.runtime.settings_sync.sync_account(account)


def test_narrowed_while_steps_run_and_redis_lost_none_too_many_start(service: Service) -> None:
    set_concurrency(service, "acme", "quick", 3)
    service.work(threads=8)
    running = [service.make("quick", do="wait") for _ in range(3)]
    for job_id in running:
        service.until(lambda job_id=job_id: service.began(job_id), "three to run")  # type: ignore[misc]
    waiting = [service.make("quick") for _ in range(4)]
    set_concurrency(service, "acme", "quick", 1)
    with contextlib.closing(redis.Redis.from_url(str(service.settings.redis_url))) as client:
        client.flushall()
    # Redis knows nothing of the three that run, and offers slot 0 at once.
    Reconciler(service.runtime).run_once()
    probe = service.make("quick", account="another")
    assert service.wait(probe)["status"] == "completed", "the worker claims again"
    assert not any(service.began(job_id) for job_id in waiting)
    service.go()
    ended = [service.wait(job_id) for job_id in (*running, *waiting)]
    assert all(job["status"] == "completed" for job in ended)
    spans = sorted(
        (a["started_at"], a["finished_at"]) for job in ended[3:] for a in job["steps"][0]["attempts"] if a["started_at"]
    )
    last_of_the_three = max(job["steps"][0]["finished_at"] for job in ended[:3])
    assert spans[0][0] >= last_of_the_three
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


def test_jobs_that_are_cancelled_while_they_are_claimed(service: Service) -> None:
    """By a process other than the worker's: each is cancelled without a run, ended while it ran, or was done before."""
    service.work(threads=4)
    made = [service.make("patient" if number % 3 == 0 else "quick", account=f"a{number}") for number in range(12)]
    for job_id in made:
        with contextlib.suppress(JobFinished):
            service.runtime.jobs.cancel(job_id)
    for job_id in made:
        job = service.wait(job_id)
        assert job["status"] in ("cancelled", "completed")
        if job["status"] == "completed":
            assert job["result"] is not None
        assert all(step["status"] not in ("queued", "running", "retrying") for step in job["steps"])
