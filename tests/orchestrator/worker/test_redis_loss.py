"""Redis is disposable: stopped, hung, restarted empty, restored from an old snapshot, or replaced."""

from __future__ import annotations

import signal
import time

import pytest

from tests.orchestrator.conftest import Own, Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def outcomes(service: Service, job_id: str) -> list[str]:
    return [attempt["outcome"] for attempt in service.job(job_id)["steps"][0]["attempts"]]


def test_jobs_are_accepted_without_redis_and_run_with_an_empty_one(own: Own) -> None:
    service = own.service
    service.work()
    running = service.make("patient", account="runs", do="wait")
    service.until(lambda: service.began(running), "the step to begin")
    before = [service.make("quick", account="same", do="wait") for _ in range(2)]
    own.valkey.stop()
    during = [service.make("quick", account=f"while away {number}") for number in range(5)]
    assert all(service.job(job_id)["status"] == "queued" for job_id in during)
    service.go()
    # What runs goes on without Redis, and commits.
    service.until(lambda: service.job(running)["steps"][0]["status"] == "completed", "the running step to commit")
    own.start()
    for job_id in [running, *before, *during]:
        assert service.wait(job_id)["status"] == "completed"
        assert outcomes(service, job_id) == ["completed"]


def test_what_runs_goes_on_when_redis_has_forgotten_it(own: Own) -> None:
    service = own.service
    service.work()
    apart = service.make("patient", account="apart", do="wait")
    here = service.make("quick", account="here", do="wait")
    fails = service.make("quick", account="fails", do="wait_and_fail_once")
    for job_id in (apart, here, fails):
        service.until(lambda job_id=job_id: service.began(job_id), "the step to begin")  # type: ignore[misc]
    service.runtime.broker.client.flushall()
    admin = service.runtime.broker.queues_admin
    service.until(lambda: (admin.generation() or 0) > 0, "Redis to be rebuilt")
    service.until(lambda: service.log().count("Lost the lease") == 3, "the worker to get it")
    service.go()
    for job_id in (apart, here, fails):
        assert service.wait(job_id)["status"] == "completed"
    # None was interrupted; and the message of the one that waits for its next try, which Redis lost, is sent again.
    assert [outcomes(service, job_id) for job_id in (apart, here)] == [["completed"]] * 2
    assert outcomes(service, fails) == ["failed", "completed"]


def test_a_hung_redis_does_not_hold_up_an_accepted_job_for_long(own: Own) -> None:
    service = own.service
    own.valkey.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    job_ids = [service.make("quick", account=f"account {number}") for number in range(10)]
    # One caller waits for the time-out of 5 s, the others do not: not a measure of speed, but of "one, not ten".
    assert time.monotonic() - began < 25
    assert all(service.job(job_id)["status"] == "queued" for job_id in job_ids)
    own.valkey.process.send_signal(signal.SIGCONT)
    service.work()
    assert all(service.wait(job_id)["status"] == "completed" for job_id in job_ids)


def test_an_old_snapshot_brings_nothing_back_to_life(own: Own) -> None:
    service = own.service
    job_ids = [service.make("quick", account="acme") for _ in range(3)]
    client = service.runtime.broker.client
    service.until(lambda: service.runtime.broker.queues_admin.generation() is not None, "the first generation")
    client.save()
    service.work()
    for job_id in job_ids:
        service.wait(job_id)
    own.valkey.stop()
    own.start("--dbfilename", "dump.rdb")
    assert service.wait(service.make("quick", account="acme"))["status"] == "completed"
    service.until(
        lambda: service.runtime.broker.queues_admin.totals("quick").waiting == 0, "old messages to be settled"
    )
    for job_id in job_ids:
        assert outcomes(service, job_id) == ["completed"]
