"""A job is cancelled by one process while its step runs in another: within two seconds, with Redis and without."""

from __future__ import annotations

from functools import partial

import pytest

from tests.orchestrator.conftest import Own, Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

#: What the contract says: from the call to the job's end, the step's processes proved gone.
SECONDS = 2.0
#: A starved machine may be late with one; a worker that looks too seldom is late with all of them.
SAMPLES = 4


def cancel_running(service: Service, job_ids: list[str]) -> list[float]:
    """Cancel jobs whose steps run; seconds from the request to the end of each, by the database's clock."""
    took = []
    for job_id in job_ids:
        job, ended = service.runtime.jobs.cancel(job_id)
        assert not ended, "its step runs, and somebody else must end it"
        assert job["cancel_requested_at"] is not None
        service.wait(job_id)
        job = service.job(job_id)
        assert (job["status"], job["steps"][0]["status"]) == ("cancelled", "cancelled")
        assert [attempt["outcome"] for attempt in job["steps"][0]["attempts"]] == ["cancelled"]
        took.append((job["finished_at"] - job["cancel_requested_at"]).total_seconds())
    return took


def running_on_two_workers(service: Service) -> list[str]:
    """Jobs whose steps hang, on two worker processes."""
    for _ in range(2):
        service.work(threads=SAMPLES // 2)
    made = [service.make("patient", account=f"account {number}", do="hang") for number in range(SAMPLES)]
    for job_id in made:
        service.until(partial(service.began, job_id), "the step to begin")
    workers = {service.job(job_id)["steps"][0]["attempts"][0]["worker"] for job_id in made}
    assert len(workers) == 2
    return made


def test_steps_on_other_workers_are_ended_within_two_seconds(service: Service) -> None:
    took = cancel_running(service, running_on_two_workers(service))
    assert min(took) <= SECONDS, took
    assert service.run("quick")["status"] == "completed", "the workers go on"


def test_the_same_while_redis_is_away(own: Own) -> None:
    made = running_on_two_workers(own.service)
    own.valkey.stop()
    took = cancel_running(own.service, made)
    assert min(took) <= SECONDS, took
    own.start()
    assert own.service.run("quick")["status"] == "completed", "Redis is back, and the workers go on"
