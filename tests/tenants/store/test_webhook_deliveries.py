"""A job's end and its webhook's delivery are one transaction, on every way in which a job ends, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from tenants.database.columns import db_now
from tenants.database.models import DeadLetter, Job, Step
from tenants.errors import OwnershipLost
from tenants.store.jobs import approval as approvals
from tenants.store.jobs import bulk_cancel, webhook_deliveries
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs import finish as endings
from tenants.store.jobs import lists as job_lists
from tenants.store.jobs import read as job_store
from tenants.store.jobs import timers as clock
from tenants.store.jobs.create import JobPlan, StepPlan
from tenants.store.jobs.lists import JobFilter
from tenants.store.removal.pruning import Retention, candidates, remove
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import start as start_steps
from tests.tenants.conftest import Bench

URL = "https://receiver.example/hook"
ONE_STEP = (StepPlan("publish", "publish", True, 3),)
BEST_EFFORT = (StepPlan("publish", "publish", True, 3), StepPlan("note", "publish", False, 1))
ERROR = {"code": "publish_failed", "message": "no"}

End = Callable[[Bench, str, str], None]


def completed(bench: Bench, job_id: str, step_id: str) -> None:
    sent = bench.complete(bench.own(step_id), {"url": "x"})
    assert sent is not None, "it is sent at once"
    assert (sent.lane, sent.name) == ("webhook", "deliver")


def completed_the_long_way(bench: Bench, job_id: str, step_id: str) -> None:
    owned = bench.own(step_id)
    assert bench.write(lambda c: finish_steps.complete(c, owned, {"url": "x"})).lane == "webhook"


def failed(bench: Bench, job_id: str, step_id: str) -> None:
    owned = bench.own(step_id)
    bench.write(lambda c: finish_steps.fail(c, owned, outcome="failed", error=ERROR, traceback=None, message={}))


def timed_out(bench: Bench, job_id: str, step_id: str) -> None:
    owned = bench.own(step_id)
    bench.write(lambda c: finish_steps.fail(c, owned, outcome="timed_out", error=ERROR, traceback=None, message={}))


def past_its_deadline_running(bench: Bench, job_id: str, step_id: str) -> None:
    owned = bench.own(step_id)
    bench.write(lambda c: finish_steps.time_out_job(c, owned))


def past_its_deadline_waiting(bench: Bench, job_id: str, step_id: str) -> None:
    bench.write(lambda c: c.execute(update(Job.__table__).values(deadline_at=db_now(-1.0))))
    bench.write(lambda c: clock.end_at_deadline(c, limit=10))


def cancelled_running(bench: Bench, job_id: str, step_id: str) -> None:
    owned = bench.own(step_id)
    bench.write(lambda c: finish_steps.cancel(c, owned))


def cancelled_waiting(bench: Bench, job_id: str, step_id: str) -> None:
    bench.write(lambda c: endings.end(c, job_store.lock(c, job_id, None), "cancelled"))


def cancelled_with_its_queue(bench: Bench, job_id: str, step_id: str) -> None:
    bench.write(lambda c: bulk_cancel.cancel_waiting(c, "publish", "acme", limit=10))


def cancelled_while_its_worker_died(bench: Bench, job_id: str, step_id: str) -> None:
    owned = bench.own(step_id)
    bench.write(lambda c: endings.request_cancel(c, job_id))
    bench.write(lambda c: finish_steps.lose(c, step_id, owned.run_token))


def expired(bench: Bench, job_id: str, step_id: str) -> None:
    bench.write(lambda c: c.execute(update(Job.__table__).values(expires_at=db_now(-1.0))))
    bench.write(lambda c: clock.expire_jobs(c, limit=10))


def buried(bench: Bench, job_id: str, step_id: str) -> None:
    def bury(connection: Connection) -> None:
        found = start_steps.load(connection, step_id)
        assert found is not None
        waiting = start_steps.attempt_of(found)
        finish_steps.fail_waiting(connection, waiting, error=ERROR, message={}, letter_id="letter")

    bench.write(bury)


ENDS: list[tuple[End, str]] = [
    (completed, "completed"),
    (completed_the_long_way, "completed"),
    (failed, "failed"),
    (timed_out, "timed_out"),
    (past_its_deadline_running, "timed_out"),
    (past_its_deadline_waiting, "timed_out"),
    (cancelled_running, "cancelled"),
    (cancelled_waiting, "cancelled"),
    (cancelled_with_its_queue, "cancelled"),
    (cancelled_while_its_worker_died, "cancelled"),
    (expired, "expired"),
    (buried, "failed"),
]


def deliveries_of(bench: Bench, job_id: str) -> list[Any]:
    return list(bench.database.read(lambda c: webhook_deliveries.of_job(c, job_id)))


@pytest.mark.parametrize(("end", "status"), ENDS, ids=[end.__name__ for end, _ in ENDS])
def test_every_end_creates_one_delivery(bench: Bench, end: End, status: str) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)
    assert deliveries_of(bench, job_id) == []
    end(bench, job_id, step.id)
    assert bench.job(job_id)["status"] == status
    (delivery,) = deliveries_of(bench, job_id)
    assert (delivery["account"], delivery["pipeline"], delivery["status"]) == ("acme", "webhook", "queued")
    assert delivery["input"] == {"job": job_id, "status": status}
    assert delivery["callback_url"] is None, "a delivery's own end creates none"


@pytest.mark.parametrize("end", [completed_the_long_way, failed, cancelled_waiting], ids=lambda end: end.__name__)
def test_a_job_without_a_callback_leaves_none(bench: Bench, end: End) -> None:
    job_id, step = bench.make(steps=ONE_STEP)
    if end is completed_the_long_way:
        assert bench.complete(bench.own(step.id), {}) is None
    else:
        end(bench, job_id, step.id)
    assert deliveries_of(bench, job_id) == []


def test_a_rejected_job_creates_a_delivery(bench: Bench) -> None:
    made = bench.write(
        lambda c: create_jobs.create(
            c, "acme", [JobPlan(pipeline="blog", input={}, steps=ONE_STEP, approval=True, callback_url=URL)]
        )
    )
    bench.write(lambda c: approvals.reject(c, job_store.lock(c, made.ids[0], None), "no"))
    assert [row["input"]["status"] for row in deliveries_of(bench, made.ids[0])] == ["cancelled"]


def test_a_failed_last_step_of_best_effort_creates_a_delivery(bench: Bench) -> None:
    job_id, step = bench.make(steps=BEST_EFFORT, callback_url=URL)
    second = bench.complete(bench.own(step.id), {"url": "x"})
    assert second is not None
    assert second.name == "note"
    failed(bench, job_id, second.id)
    assert [row["input"]["status"] for row in deliveries_of(bench, job_id)] == ["completed"]


def test_an_end_that_is_rolled_back_creates_no_delivery(bench: Bench) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)
    owned = bench.own(step.id)
    bench.write(lambda c: c.execute(update(Step.__table__).values(run_token=owned.run_token + 1)))
    with pytest.raises(OwnershipLost):
        bench.complete(owned, {})
    assert (bench.job(job_id)["status"], deliveries_of(bench, job_id)) == ("running", [])


def test_a_second_end_creates_no_second_delivery(bench: Bench) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)
    cancelled_waiting(bench, job_id, step.id)
    assert not bench.write(lambda c: endings.end(c, job_store.lock(c, job_id, None), "expired"))
    assert len(deliveries_of(bench, job_id)) == 1


def test_only_the_newest_end_is_reported(bench: Bench) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)

    def speaks(delivery: Any) -> bool:
        return bench.database.read(lambda c: webhook_deliveries.ended_job(c, delivery["id"])) is not None

    failed(bench, job_id, step.id)
    (first,) = deliveries_of(bench, job_id)
    assert speaks(first)
    bench.write(lambda c: endings.reopen(c, job_store.lock(c, job_id, None), job_store.fetch_steps(c, job_id)[0]))
    assert not speaks(first), "the job has not ended"
    completed(bench, job_id, step.id)
    first, second = deliveries_of(bench, job_id)
    assert (speaks(first), speaks(second)) == (False, True)


def test_deliveries_are_neither_listed_nor_counted_as_jobs(bench: Bench) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)
    completed(bench, job_id, step.id)

    def listed(chosen: JobFilter) -> list[str]:
        rows, _ = bench.database.read(lambda c: job_lists.page(c, chosen, limit=10, cursor=None))
        return [row["id"] for row in rows]

    (delivery,) = deliveries_of(bench, job_id)
    assert listed(JobFilter(account="acme")) == [job_id]
    assert listed(JobFilter(pipeline="webhook", deliveries=True)) == [delivery["id"]]


def test_deliveries_are_pruned_with_their_job_which_open_ones_keep(bench: Bench) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)
    completed(bench, job_id, step.id)
    (delivery,) = deliveries_of(bench, job_id)
    none_kept = Retention(completed=0, failed=0, grace=-1.0, max_age=-1.0)

    def prune() -> int:
        found = candidates(bench.database, none_kept, limit=100)
        return remove(bench.database, found).jobs if found else 0

    assert prune() == 0, "it was not delivered yet"
    owned = bench.own(delivery["step_id"])
    bench.write(lambda c: finish_steps.fail(c, owned, outcome="failed", error=ERROR, traceback=None, message={}))
    assert prune() == 0, "somebody may replay it"
    bench.write(lambda c: c.execute(update(DeadLetter.__table__).values(resolution="discarded")))
    assert prune() == 2
    assert bench.database.read(lambda c: c.execute(select(Job.__table__.c.id)).all()) == []


def test_what_the_receiver_answered_is_kept_with_the_try(bench: Bench) -> None:
    job_id, step = bench.make(steps=ONE_STEP, callback_url=URL)
    completed(bench, job_id, step.id)
    (delivery,) = deliveries_of(bench, job_id)
    owned = bench.own(delivery["step_id"])
    bench.write(lambda c: webhook_deliveries.note_answer(c, owned.step_id, owned.run_token, 503))
    bench.write(lambda c: finish_steps.retry(c, owned, outcome="failed", error=ERROR, delay_seconds=60.0))
    bench.write(lambda c: webhook_deliveries.note_answer(c, owned.step_id, owned.run_token, 200))
    (attempt,) = bench.database.read(lambda c: webhook_deliveries.attempts_of(c, [delivery["id"]]))
    assert (attempt["status_code"], attempt["outcome"]) == (503, "failed"), "a try that ended is not changed"
    (waiting,) = deliveries_of(bench, job_id)
    assert waiting["step_due_at"] - attempt["finished_at"] > timedelta(seconds=50)
