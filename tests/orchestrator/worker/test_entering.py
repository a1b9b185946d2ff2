"""Irreversible steps whose worker dies before their function is entered: they are simply run, once."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.orchestrator.conftest import Service

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.campaign, pytest.mark.timeout(300)]


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_steps_that_were_never_entered_are_simply_run(service: Service) -> None:
    """One was handed to a process that never got to it; for the other no process could be forked."""
    worker = service.work(threads=2)
    zygote, step = (_below(service, worker.pid, name) for name in ("onelane-zygote", "onelane-step"))
    zygote.suspend()
    step.suspend()
    handed_over = service.make("once-slowly", account="handed over", do="wait")
    service.until(lambda: _step_status(service, handed_over) == "running", "the first step to start")
    waiting = service.make("once-slowly", account="waiting", do="wait")
    totals = service.runtime.broker.queues_admin.totals
    service.until(lambda: totals("apart").active == 2, "the second step to be claimed")
    worker.kill()
    zygote.send_signal(signal.SIGKILL)
    assert _step_status(service, waiting) == "queued", "it is not started before there is a process"
    service.go()
    service.work()
    for job_id, outcomes in ((handed_over, ["lost", "completed"]), (waiting, ["completed"])):
        job = service.wait(job_id)
        assert job["status"] == "completed", job["error"]
        assert [attempt["outcome"] for attempt in job["steps"][0]["attempts"]] == outcomes
        notes = (service.settings.data_dir / "notes" / f"{job_id}.log").read_text()
        assert notes.count("start") == 1


def _below(service: Service, pid: int, name: str) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [each for each in psutil.Process(pid).children(recursive=True) if each.name() == name]
        return bool(found)

    service.until(look, f"{name} to be there")
    return found[0]


def _step_status(service: Service, job_id: str) -> str:
    return str(service.job(job_id)["steps"][0]["status"])
