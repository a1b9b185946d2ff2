"""A job that awaits approval, with real workers: what was cancelled and is retried waits for approval again."""

from __future__ import annotations

import pytest

from tests.orchestrator.conftest import Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def test_no_worker_runs_a_retried_last_step_before_its_approval(service: Service) -> None:
    service.work()
    job_id = service.make("patient", approval=True)
    service.wait(job_id, "awaiting_approval")
    jobs = service.runtime.jobs
    for end in (jobs.cancel, jobs.reject):
        end(job_id)
        assert jobs.retry(job_id)["status"] == "awaiting_approval"
    # Of the same account and lane, and queued later: once it has run, the other's step would have run before it.
    assert service.run("patient")["status"] == "completed"
    job = service.job(job_id)
    assert (job["status"], job["steps"][1]["attempts"]) == ("awaiting_approval", [])
    jobs.approve(job_id)
    assert service.wait(job_id)["status"] == "completed"
