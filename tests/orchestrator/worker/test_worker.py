"""Jobs through real worker processes: outcomes, retries, limits, stops and kills, on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
from typing import Any

import httpx2
import pytest
import redis

from tests.orchestrator.conftest import Service
from tests.support.servers import free_port

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def outcomes(job: dict[str, Any], step: int = 0) -> list[str]:
    return [attempt["outcome"] for attempt in job["steps"][step]["attempts"]]


def starts(service: Service, job_id: str) -> int:
    return (service.settings.data_dir / "notes" / f"{job_id}.log").read_text().count("start")


def is_left_to_a_person(service: Service, job_id: str, outcome: str) -> bool:
    """An irreversible step that keeps no ledger was cut off: nobody knows what it did, and it is not run again."""
    job = service.wait(job_id)
    assert (job["status"], job["error"]["code"], outcomes(job)) == ("failed", "outcome_unknown", [outcome])
    assert "only if it did not" in job["error"]["message"]
    return starts(service, job_id) == 1


def test_what_becomes_of_jobs(service: Service) -> None:
    """One worker, one job of each kind, side by side in accounts of their own."""
    service.work(threads=8)
    made = {
        name: service.make(pipeline, account=f"account {name}", do=do)
        for name, pipeline, do in [
            ("plain", "quick", "return"),
            ("apart", "apart", "return"),
            ("chain", "chain", "return"),
            ("fail", "quick", "fail"),
            ("fail once", "quick", "fail_once"),
            ("reject", "quick", "reject"),
            ("retry", "quick", "retry_once"),
            ("busy", "quick", "busy_once"),
            ("crash", "apart", "exit"),
            ("hang", "hurried", "hang"),
            ("snooze", "quick", "snooze_once"),
            ("memory", "small", "grow"),
            ("once, crash", "once", "exit"),
            ("once, hang", "once", "hang"),
            ("once, fail once", "once", "fail_once"),
            ("undeclared", "apart", "undeclared"),
        ]
    }
    made["deadline"] = service.make("patient", account="account deadline", do="hang", deadline=1.0)
    ended = {name: service.wait(job_id) for name, job_id in made.items()}
    assert {name: job["status"] for name, job in ended.items()} == {
        "plain": "completed",
        "apart": "completed",
        "chain": "completed",
        "fail": "failed",
        "fail once": "completed",
        "reject": "failed",
        "retry": "completed",
        "busy": "completed",
        "crash": "failed",
        "hang": "timed_out",
        "snooze": "completed",
        "memory": "failed",
        "once, crash": "failed",
        "once, hang": "failed",
        "once, fail once": "completed",
        "undeclared": "failed",
        "deadline": "timed_out",
    }
    assert ended["plain"]["result"]["account"] == "account plain"
    assert ended["apart"]["result"]["pid"] != ended["plain"]["result"]["pid"]
    assert ended["chain"]["result"]["before"]["quick"]["attempt"] == 1
    assert ended["chain"]["steps"][2]["status"] == "failed"
    assert outcomes(ended["fail"]) == ["failed", "failed", "failed"]
    assert outcomes(ended["fail once"]) == ["failed", "completed"]
    assert outcomes(ended["reject"]) == ["failed"]
    assert ended["reject"]["error"] == {"code": "publish_failed", "message": "no use", "step": "quick"}
    assert outcomes(ended["retry"]) == ["failed", "completed"]
    assert outcomes(ended["busy"]) == ["provider_busy", "completed"]
    assert ended["busy"]["result"]["attempt"] == 1
    assert ended["crash"]["error"]["code"] == "crashed"
    assert outcomes(ended["crash"]) == ["failed", "failed"]
    assert ended["hang"]["error"]["code"] == "timed_out"
    assert outcomes(ended["hang"]) == ["timed_out", "timed_out"]
    assert outcomes(ended["snooze"]) == ["snoozed", "completed"]
    assert ended["snooze"]["result"]["attempt"] == 1
    assert ended["memory"]["error"]["code"] == "out_of_memory"
    assert str(400 << 20) in ended["memory"]["error"]["message"]
    assert (ended["deadline"]["error"]["code"], ended["deadline"]["failed_step"]) == ("deadline_passed", "patient")
    assert outcomes(ended["deadline"]) == ["timed_out"]
    assert outcomes(ended["undeclared"]) == ["failed"], "another try would end the same way"
    assert ended["undeclared"]["error"]["code"] == "not_declared"
    assert 'clients={"gemini"}' in ended["undeclared"]["error"]["message"]
    assert is_left_to_a_person(service, made["once, crash"], "failed")
    assert is_left_to_a_person(service, made["once, hang"], "timed_out")
    assert outcomes(ended["once, fail once"]) == ["failed", "completed"], "it said itself how it ended"


@pytest.mark.parametrize(
    ("pipeline", "first", "ends"), [("chain", "quick", "failed"), ("lingering", "patient", "timed_out")]
)
def test_best_effort_after_the_work_is_done_repeats_nothing(
    service: Service, pipeline: str, first: str, ends: str
) -> None:
    """A step that need not succeed fails or hangs: the job is completed, by what was done once."""
    service.work()
    job_id = service.make(pipeline)
    job = service.wait(job_id)
    assert (job["status"], job["steps"][-1]["status"], job["steps"][-1]["required"]) == ("completed", ends, False)
    assert job["steps"][0]["name"] == first
    assert outcomes(job) == ["completed"]
    assert job["result"] == job["steps"][-2]["output"]
    log = (service.settings.data_dir / "notes" / f"{job_id}.log").read_text()
    assert (log.count("start"), log.count("end")) == (1, 1)


def test_one_account_runs_one_at_a_time_and_in_order(service: Service) -> None:
    service.work(threads=8)
    made = [service.make("quick", account="acme") for _ in range(12)]
    others = [service.make("quick", account=f"other-{number}") for number in range(12)]
    ended = [service.wait(job_id) for job_id in made]
    for job_id in others:
        assert service.wait(job_id)["status"] == "completed"
    spans = [(a["started_at"], a["finished_at"]) for job in ended for a in job["steps"][0]["attempts"]]
    assert spans == sorted(spans), "the jobs of one account ran out of order"
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), "two overlapped"


def test_a_cancelled_step_is_killed(service: Service) -> None:
    service.work()
    job_id = service.make("patient", do="wait")
    service.until(lambda: service.began(job_id), "the step to begin")
    job, ended = service.runtime.jobs.cancel(job_id)
    assert not ended
    assert job["cancel_requested_at"] is not None
    job = service.wait(job_id)
    assert (job["status"], outcomes(job)) == ("cancelled", ["cancelled"])
    assert service.run("quick")["status"] == "completed"


def test_sigterm_hands_back_and_another_worker_goes_on(service: Service) -> None:
    worker = service.work()
    job_id = service.make("patient", do="wait")
    service.until(lambda: service.began(job_id), "the step to begin")
    once = service.make("once-slowly", account="once", do="wait")
    service.until(lambda: service.began(once), "the irreversible step to begin")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=90) == 0
    assert is_left_to_a_person(service, once, "lost")
    job = service.job(job_id)
    assert (job["status"], job["steps"][0]["attempt"], outcomes(job)) == ("queued", 0, ["lost"])
    service.go()
    service.work()
    assert service.wait(job_id)["status"] == "completed"


def test_sigterm_lets_a_step_finish_within_the_grace(service: Service) -> None:
    worker = service.work(ONELANE_SHUTDOWN_GRACE_SECONDS="60")
    job_id = service.make("patient", do="wait")
    service.until(lambda: service.began(job_id), "the step to begin")
    worker.send_signal(signal.SIGTERM)
    service.go()
    assert worker.wait(timeout=90) == 0
    assert service.job(job_id)["steps"][0]["status"] == "completed"


def test_a_killed_workers_step_runs_again_elsewhere(service: Service) -> None:
    worker = service.work()
    job_id = service.make("patient", do="wait")
    once = service.make("once-slowly", account="once", do="wait")
    for each in (job_id, once):
        service.until(lambda each=each: service.began(each), "the step to begin")  # type: ignore[misc]
    worker.kill()
    service.go()
    service.work()
    assert is_left_to_a_person(service, once, "lost")
    job = service.wait(job_id)
    assert job["status"] == "completed"
    assert outcomes(job) == ["lost", "completed"]
    assert job["steps"][0]["attempt"] == 1


def test_a_delayed_job_starts_at_its_time(service: Service) -> None:
    service.work()
    job_id = service.make("quick", delay=1.0)
    assert service.job(job_id)["status"] == "scheduled"
    job = service.wait(job_id)
    waited = (job["started_at"] - job["created_at"]).total_seconds()
    assert waited >= 1.0


def test_an_emptied_redis_is_rebuilt(service: Service) -> None:
    made = [service.make("quick", account=f"account-{number}") for number in range(30)]
    service.until(lambda: service.runtime.broker.queues_admin.generation() is not None, "the first generation")
    with contextlib.closing(redis.Redis.from_url(str(service.settings.redis_url))) as client:
        client.flushall()
    service.work()
    for job_id in made:
        job = service.wait(job_id)
        assert (job["status"], outcomes(job)) == ("completed", ["completed"])


def test_a_worker_serves_its_own_metrics(service: Service) -> None:
    port = free_port()
    service.work(ONELANE_WORKER_METRICS_PORT=str(port))
    service.run("quick")

    def attempts() -> str | None:
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        return next((line for line in text.splitlines() if line.startswith("onelane_attempts_total{")), None)

    service.until(lambda: attempts() is not None, "the attempt to be counted")
    line = str(attempts())
    assert 'outcome="completed"' in line
    assert "acme" not in line, "no series carries an account"


def test_a_metrics_port_that_is_taken_is_reported(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AssertionError, match="nothing can listen on"):
        service.work(ONELANE_WORKER_METRICS_PORT=str(taken.getsockname()[1]))
