"""A step's life in SQL: who may start it, who may end it, and what a late write meets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from tenants.database.columns import db_now
from tenants.database.models import Account, DeadLetter, Job, Worker
from tenants.errors import OwnershipLost
from tenants.store import attempt, workers
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.jobs import finish as endings
from tenants.store.jobs import read as jobs
from tenants.store.jobs.create import StepPlan
from tenants.store.steps import finish as finish_steps
from tests.tenants.conftest import Bench

ERROR = {"code": "internal", "message": "it broke"}


def test_a_job_runs_from_its_first_step_to_its_result(bench: Bench) -> None:
    job_id, first = bench.make()
    owned = bench.own(first.id)
    assert bench.job(job_id)["status"] == "running"
    following = bench.complete(owned, {"draft": 1})
    assert following is not None
    assert (following.lane, following.sequence) == ("publish", first.sequence)
    assert bench.job(job_id)["status"] == "queued"

    publish = bench.own(following.id)
    assert publish.outputs == {"generate": {"draft": 1}}
    assert bench.complete(publish, {"url": "u"}) is None
    job = bench.job(job_id)
    assert (job["status"], job["result"], job["current_step"]) == ("completed", {"url": "u"}, None)
    assert [a["outcome"] for a in bench.attempts(job_id)] == ["completed", "completed"]


def test_only_one_of_many_starters_gets_the_step(bench: Bench) -> None:
    _, first = bench.make()
    gate = threading.Barrier(8)

    def race(_: int) -> Any:
        gate.wait()
        return bench.start(first.id)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, range(8)))
    assert sum(isinstance(each, OwnedAttempt) for each in answers) == 1
    assert all(isinstance(each, OwnedAttempt | Refused) for each in answers)


def test_two_steps_of_a_tenant_queue_never_run_together_whatever_redis_says(bench: Bench) -> None:
    _, one = bench.make()
    _, two = bench.make()
    bench.own(one.id)
    assert isinstance(bench.start(two.id, slot=0), Refused)
    assert isinstance(bench.start(two.id, slot=1), Refused)


def test_lowered_concurrency_lets_none_start_too_many(bench: Bench) -> None:
    bench.limit("acme", {"lanes": {"generate": {"concurrency": 3}}})
    made = [bench.make()[1] for _ in range(4)]
    bench.own(made[0].id, slot=1)
    bench.own(made[1].id, slot=2)
    bench.limit("acme", {"lanes": {"generate": {"concurrency": 1}}})
    # Slot 0 is free and below the new bound, but two still run.
    refused = bench.start(made[2].id, slot=0)
    assert isinstance(refused, Refused)
    assert "as many steps as it may" in refused.reason


def test_account_concurrency_counts_over_all_lanes(bench: Bench) -> None:
    bench.limit("acme", {"account_concurrency": 1})
    _, one = bench.make()
    publish_only = (StepPlan("publish", "publish", True, 3),)
    _, two = bench.make(steps=publish_only)
    bench.own(one.id)
    assert isinstance(bench.start(two.id), Refused)


def test_accounts_do_not_stand_in_each_others_way(bench: Bench) -> None:
    steps_of = [bench.make(account=name)[1] for name in ("a.b", "a_b", "A_B", "a/b", "*")]
    assert all(isinstance(bench.start(step.id), OwnedAttempt) for step in steps_of)


def test_a_late_result_is_refused(bench: Bench) -> None:
    job_id, first = bench.make()
    stale = bench.own(first.id)
    bench.write(lambda c: bench.lose(c, job_id, 0))
    fresh = bench.own(first.id)
    assert fresh.run_token == stale.run_token + 1
    with pytest.raises(OwnershipLost, match=first.id):
        bench.complete(stale, {"late": True})
    with pytest.raises(OwnershipLost):
        bench.write(lambda c: attempt.progress(c, stale, 50, "late"))
    with pytest.raises(OwnershipLost):
        bench.write(lambda c: attempt.still_owned(c, stale))
    assert bench.steps(job_id)[0]["status"] == "running"
    bench.complete(fresh, {"late": False})
    assert bench.steps(job_id)[0]["output"] == {"late": False}
    assert [a["outcome"] for a in bench.attempts(job_id)] == ["lost", "completed"]


@pytest.mark.parametrize(
    ("outcome", "attempt_after", "status"),
    [("failed", 1, "retrying"), ("timed_out", 1, "retrying"), ("snoozed", 0, "queued"), ("provider_busy", 0, "queued")],
)
def test_what_spends_an_attempt(bench: Bench, outcome: Any, attempt_after: int, status: str) -> None:
    job_id, first = bench.make()
    owned = bench.own(first.id)
    bench.write(lambda c: finish_steps.retry(c, owned, outcome=outcome, error=ERROR, delay_seconds=60))
    step = bench.steps(job_id)[0]
    assert (step["attempt"], step["status"], step["slot"]) == (attempt_after, status, None)
    assert bench.job(job_id)["status"] == "queued"
    refused = bench.start(first.id)
    assert isinstance(refused, Refused)
    assert 55 < refused.seconds <= 60


def test_a_failed_required_step_ends_the_job_and_leaves_a_dead_letter(bench: Bench) -> None:
    job_id, first = bench.make()
    owned = bench.own(first.id)
    bench.write(
        lambda c: finish_steps.fail(
            c, owned, outcome="failed", error=ERROR, traceback="Traceback …", message={"args": [first.id]}
        )
    )
    job = bench.job(job_id)
    assert (job["status"], job["failed_step"], job["error"]["step"]) == ("failed", "generate", "generate")
    letter = bench.database.read(lambda c: c.execute(select(DeadLetter.__table__)).mappings().one())
    assert (letter["job_id"], letter["error_code"], letter["error"]["traceback"]) == (job_id, "internal", "Traceback …")
    assert isinstance(bench.start(first.id), NotRunnable)


def test_a_failed_best_effort_step_lets_the_job_go_on(bench: Bench) -> None:
    plan = (StepPlan("a", "generate", True, 1), StepPlan("b", "generate", False, 1))
    job_id, first = bench.make(steps=plan)
    kept = bench.own(first.id)
    second = bench.complete(kept, {"kept": 1})
    assert second is not None
    owned = bench.own(second.id)
    bench.write(lambda c: finish_steps.fail(c, owned, outcome="failed", error=ERROR, traceback=None, message={}))
    job = bench.job(job_id)
    assert (job["status"], job["result"]) == ("completed", {"kept": 1})
    assert bench.steps(job_id)[1]["status"] == "failed"


def test_lost_attempts_have_a_budget_of_their_own(bench: Bench) -> None:
    job_id, first = bench.make()
    for lost in range(1, finish_steps.LOST_BUDGET + 1):
        bench.own(first.id)
        bench.write(lambda c: bench.lose(c, job_id, 0))
        step = bench.steps(job_id)[0]
        assert (step["lost"], step["attempt"], step["status"]) == (lost, 0, "retrying")
    bench.own(first.id)
    bench.write(lambda c: bench.lose(c, job_id, 0))
    assert bench.job(job_id)["error"]["code"] == "lost"


def test_a_hand_back_counts_nothing(bench: Bench) -> None:
    job_id, first = bench.make()
    owned = bench.own(first.id)
    bench.write(lambda c: finish_steps.retry(c, owned, outcome="lost", error=ERROR, delay_seconds=0, handed_back=True))
    step = bench.steps(job_id)[0]
    assert (step["lost"], step["attempt"]) == (0, 0)
    assert isinstance(bench.start(first.id), OwnedAttempt)


def test_dead_workers_lose_their_steps_and_live_ones_keep_them(bench: Bench) -> None:
    _, one = bench.make()
    job_two, two = bench.make(account="other")
    bench.write(lambda c: workers.register(c, id="w2", host="there", pid=2, lanes=["generate"], threads=8))
    bench.own(one.id)
    bench.own(two.id, worker="w2")
    assert bench.write(workers.declare_dead) == []
    bench.silence("w2", workers.DEAD_SECONDS + 1)
    assert bench.write(workers.declare_dead) == ["w2"]
    abandoned = bench.database.read(workers.abandoned_steps)
    assert [step["job_id"] for step in abandoned] == [job_two]
    assert bench.write(lambda c: workers.renew(c, "w2", 0)) is False
    assert bench.write(lambda c: workers.renew(c, "w1", 1)) is True


def test_cancel_before_the_start_leaves_nothing_to_run(bench: Bench) -> None:
    job_id, first = bench.make()
    bench.write(lambda c: endings.end(c, bench.job(job_id), "cancelled"))
    assert isinstance(bench.start(first.id), NotRunnable)
    assert [step["status"] for step in bench.steps(job_id)] == ["cancelled", "cancelled"]


def test_cancel_against_start_ends_in_exactly_one_of_two_ways(bench: Bench) -> None:
    """Either the job is cancelled and nothing ran, or a step runs and the request is seen by its worker."""
    for _ in range(10):
        job_id, first = bench.make(account="racer")
        gate = threading.Barrier(2)

        def cancel(job_id: str = job_id, gate: threading.Barrier = gate) -> bool:
            def work(connection: Any) -> bool:
                job = jobs.lock(connection, job_id, None)
                endings.request_cancel(connection, job_id)
                return not jobs.has_running_step(connection, job_id) and endings.end(connection, job, "cancelled")

            gate.wait()
            return bool(bench.write(work))

        def start(step_id: str = first.id, gate: threading.Barrier = gate) -> Any:
            gate.wait()
            return bench.start(step_id)

        with ThreadPoolExecutor(2) as pool:
            cancelled, started = pool.submit(cancel), pool.submit(start)
            ended, answer = cancelled.result(), started.result()
        if ended:
            assert isinstance(answer, NotRunnable)
        else:
            assert isinstance(answer, OwnedAttempt)
            assert bench.database.read(lambda c: workers.cancelled_steps(c, "w1")) == [first.id]
            _cancel(bench, answer)
        assert bench.job(job_id)["status"] == "cancelled"


def _cancel(bench: Bench, owned: OwnedAttempt) -> None:
    bench.write(lambda c: finish_steps.cancel(c, owned))


def test_an_expired_job_does_not_start(bench: Bench) -> None:
    job_id, first = bench.make(expires_in=3600.0)
    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == job_id).values(expires_at=db_now(-1))))
    assert isinstance(bench.start(first.id), NotRunnable)
    assert bench.job(job_id)["status"] == "expired"


def test_a_passed_deadline_ends_the_job_as_timed_out(bench: Bench) -> None:
    job_id, first = bench.make(deadline=100.0)
    owned = bench.own(first.id)
    assert owned.deadline_seconds == 100.0
    bench.write(lambda c: finish_steps.retry(c, owned, outcome="failed", error=ERROR, delay_seconds=0))
    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == job_id).values(deadline_at=db_now(-1))))
    assert isinstance(bench.start(first.id), NotRunnable)
    job = bench.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("timed_out", "deadline_passed")


def test_a_paused_account_starts_nothing(bench: Bench) -> None:
    _, first = bench.make()
    table = Account.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == "acme").values(status="paused")))
    assert isinstance(bench.start(first.id), Refused)


def test_approval_stops_before_the_last_step(bench: Bench) -> None:
    job_id, first = bench.make(approval=True)
    owned = bench.own(first.id)
    assert bench.complete(owned, {}) is None
    assert bench.job(job_id)["status"] == "awaiting_approval"
    assert bench.steps(job_id)[1]["status"] == "awaiting_approval"


@pytest.mark.parametrize("entered", [False, True])
@pytest.mark.parametrize("records_entry", [False, True])
def test_only_an_irreversible_step_that_was_entered_has_an_unknown_outcome(
    bench: Bench, entered: bool, records_entry: bool
) -> None:
    job_id, first = bench.make()
    table = Worker.__table__
    bench.write(lambda c: c.execute(update(table).values(records_entry=records_entry)))
    owned = bench.own(first.id)
    if entered:
        bench.write(lambda c: attempt.enter(c, owned))
    bench.write(lambda c: finish_steps.lose(c, owned.step_id, owned.run_token, unless_known="; nobody knows"))
    step = bench.steps(job_id)[0]
    if entered or not records_entry:  # a worker of an earlier release does not record it
        assert (step["status"], step["error"]["code"]) == ("failed", "outcome_unknown")
        return
    assert step["status"] == "retrying"
    again = bench.own(first.id)
    bench.write(lambda c: attempt.enter(c, again))
    with pytest.raises(OwnershipLost):
        bench.write(lambda c: attempt.enter(c, owned))


def test_an_earlier_run_that_was_entered_does_not_count_for_a_later_one(bench: Bench) -> None:
    job_id, first = bench.make()
    owned = bench.own(first.id)
    bench.write(lambda c: attempt.enter(c, owned))
    bench.write(lambda c: finish_steps.retry(c, owned, outcome="failed", error=ERROR, delay_seconds=0))
    again = bench.own(first.id)
    bench.write(lambda c: finish_steps.lose(c, again.step_id, again.run_token, unless_known="; nobody knows"))
    assert bench.steps(job_id)[0]["status"] == "retrying"
