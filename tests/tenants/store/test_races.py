"""What happens to a job at one moment from two sides: whoever is first decides, and nothing stays half-way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, text, update

from orchestrator.control.jobs import Jobs
from tenants.database.columns import db_now
from tenants.database.models import Job
from tenants.errors import AccountBusy, NotAwaitingApproval, OwnershipLost, Unavailable
from tenants.store.accounts import accounts
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs import timers as clock
from tenants.store.jobs.create import StepPlan
from tenants.store.removal import erasures
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import start as start_steps
from tests.tenants.conftest import Bench
from tests.tenants.store.no_redis import NoRedis

ERROR = {"code": "internal", "message": "it broke"}
ONE_STEP = (StepPlan("publish", "publish", True, 3),)
ROUNDS = 8


@pytest.fixture
def steering(bench: Bench) -> Jobs:
    return Jobs(bench.database, {}, NoRedis())  # type: ignore[arg-type]


def at_once(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    gate = threading.Barrier(2, timeout=60)

    def through(work: Callable[[], Any]) -> Any:
        gate.wait()
        return work()

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(through, first), pool.submit(through, second)
        return one.result(), two.result()


def set_job(bench: Bench, job_id: str, **values: Any) -> None:
    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == job_id).values(**values)))


def run_clock(bench: Bench) -> None:
    bench.write(lambda c: (clock.expire_jobs(c, limit=100), clock.end_at_deadline(c, limit=100)))


def test_approve_against_expire(bench: Bench, steering: Jobs) -> None:
    """Either it expired and the approval is refused, or it was approved; then it expires unstarted all the same."""

    def approve(job_id: str) -> bool:
        try:
            steering.approve(job_id)
        except NotAwaitingApproval:
            return False
        return True

    for _ in range(ROUNDS):
        made = bench.write(
            lambda c: create_jobs.create(
                c,
                "acme",
                [create_jobs.JobPlan(pipeline="blog", input={}, steps=ONE_STEP, approval=True, expires_in=3600.0)],
            )
        )
        job_id = made.ids[0]
        set_job(bench, job_id, expires_at=db_now(-1))
        approved, _ = at_once(lambda job_id=job_id: approve(job_id), lambda: run_clock(bench))  # type: ignore[misc]
        (step,) = bench.steps(job_id)
        if not approved:
            assert (bench.job(job_id)["status"], step["status"]) == ("expired", "cancelled")
        assert isinstance(bench.start(step["id"]), NotRunnable)
        assert bench.job(job_id)["status"] == "expired"
        assert bench.steps(job_id)[0]["status"] == "cancelled"


@pytest.mark.parametrize("column", ["expires_at", "deadline_at"])
def test_expiry_and_deadline_against_start(bench: Bench, column: str) -> None:
    """The clock's loop and a worker meet: the job ends, and no step of it is left running."""
    for number in range(ROUNDS):
        job_id, first = bench.make(account=f"account {number}", expires_in=3600.0, deadline=3600.0)
        set_job(bench, job_id, **{column: db_now(-0.001)})
        started, _ = at_once(lambda first=first: bench.start(first.id), lambda: run_clock(bench))  # type: ignore[misc]
        assert isinstance(started, NotRunnable)
        wanted = "expired" if column == "expires_at" else "timed_out"
        assert bench.job(job_id)["status"] == wanted
        assert {step["status"] for step in bench.steps(job_id)} == {"cancelled"}


def test_a_deadline_strikes_in_a_retrys_backoff(bench: Bench) -> None:
    job_id, first = bench.make(deadline=100.0)
    owned = bench.own(first.id)
    bench.write(lambda c: finish_steps.retry(c, owned, outcome="failed", error=ERROR, delay_seconds=500))
    assert isinstance(bench.start(first.id), Refused), "it is in its backoff"
    set_job(bench, job_id, deadline_at=db_now(-1))
    withdrawn = bench.write(lambda c: clock.end_at_deadline(c, limit=10))
    assert [step.id for step in withdrawn] == [first.id], "its message is taken out of Redis"
    job = bench.job(job_id)
    assert (job["status"], job["error"]["code"], job["failed_step"]) == ("timed_out", "deadline_passed", "generate")
    assert {step["status"] for step in bench.steps(job_id)} == {"cancelled"}
    assert isinstance(bench.start(first.id), NotRunnable)


def test_complete_against_lose(bench: Bench) -> None:
    """A worker is declared dead while it writes its result: one of the two is refused."""
    for number in range(ROUNDS):
        job_id, first = bench.make(account=f"account {number}")
        owned = bench.own(first.id)

        def complete(owned: OwnedAttempt = owned) -> bool:
            try:
                bench.complete(owned, {"done": True})
            except OwnershipLost:
                return False
            return True

        def lose(owned: OwnedAttempt = owned) -> bool:
            try:
                bench.write(lambda c: finish_steps.lose(c, owned.step_id, owned.run_token))
            except OwnershipLost:
                return False
            return True

        completed, lost = at_once(complete, lose)
        assert completed != lost
        assert bench.steps(job_id)[0]["status"] == ("completed" if completed else "retrying")
        assert [a["outcome"] for a in bench.attempts(job_id)] == ["completed" if completed else "lost"]


def test_cancel_against_complete(bench: Bench, steering: Jobs) -> None:
    """The step's result counts, or the job is cancelled; a cancelled job's next step never starts."""
    for number in range(ROUNDS):
        job_id, first = bench.make(account=f"account {number}")
        owned = bench.own(first.id)
        at_once(
            lambda owned=owned: bench.complete(owned, {}),  # type: ignore[misc]
            lambda job_id=job_id: steering.cancel(job_id),  # type: ignore[misc]
        )
        # Whoever came second has ended it; nobody has to claim the next step for that.
        assert bench.job(job_id)["status"] == "cancelled"
        assert [step["status"] for step in bench.steps(job_id)] == ["completed", "cancelled"]
        assert isinstance(bench.start(bench.steps(job_id)[1]["id"]), NotRunnable)


WAITS: dict[str, Callable[[Connection, OwnedAttempt], Any]] = {
    "retry": lambda c, owned: finish_steps.retry(c, owned, outcome="failed", error=ERROR, delay_seconds=500),
    "snooze": lambda c, owned: finish_steps.retry(c, owned, outcome="snoozed", error=ERROR, delay_seconds=86_400),
    "hand back": lambda c, owned: finish_steps.retry(
        c, owned, outcome="lost", error=ERROR, delay_seconds=0, handed_back=True
    ),
    "best effort": lambda c, owned: finish_steps.fail(
        c, owned, outcome="failed", error=ERROR, traceback=None, message={}
    ),
    "complete": lambda c, owned: finish_steps.complete(c, owned, {}),
}


@pytest.mark.parametrize("ends", list(WAITS))
@pytest.mark.parametrize("approval", [False, True])
def test_a_cancelled_job_waits_for_nothing(bench: Bench, steering: Jobs, ends: str, approval: bool) -> None:
    """The step ends by itself before its worker has seen the cancel: no backoff, queue or approval is sat out first."""
    plan = (StepPlan("first", "generate", ends != "best effort", 3), StepPlan("publish", "publish", True, 3))
    job_id, first = bench.make(steps=plan, approval=approval)
    owned = bench.own(first.id)
    _, ended = steering.cancel(job_id)
    assert not ended, "its step runs"
    assert not bench.write(lambda c: WAITS[ends](c, owned)), "there is nothing to send and nothing that comes back"
    job = bench.job(job_id)
    assert (job["status"], job["finished_at"] is not None) == ("cancelled", True)
    assert {step["status"] for step in bench.steps(job_id)} <= {"completed", "failed", "cancelled"}
    assert bench.attempts(job_id)[0]["outcome"] is not None
    assert bench.start(first.id) == bench.start(first.id)
    assert isinstance(bench.start(first.id), NotRunnable)


@pytest.mark.parametrize("ends", ["retry", "best effort"])
def test_cancel_against_what_the_step_does_by_itself(bench: Bench, steering: Jobs, ends: str) -> None:
    plan = (StepPlan("first", "generate", ends != "best effort", 3), StepPlan("publish", "publish", True, 3))
    for number in range(ROUNDS):
        job_id, first = bench.make(account=f"account {number}", steps=plan)
        owned = bench.own(first.id)
        at_once(
            lambda owned=owned: bench.write(lambda c: WAITS[ends](c, owned)),  # type: ignore[misc]
            lambda job_id=job_id: steering.cancel(job_id),  # type: ignore[misc]
        )
        assert bench.job(job_id)["status"] == "cancelled"
        assert {step["status"] for step in bench.steps(job_id)} <= {"failed", "cancelled"}


def test_starts_at_one_moment_in_a_narrowed_tenant_queue(bench: Bench) -> None:
    """Redis was lost and offers slots 0 and 1 at once, while a step still runs on a slot beyond the new concurrency.

    Neither of the two starts sees the other; what they count must not let both through.
    """
    bench.limit("acme", {"lanes": {"generate": {"concurrency": 3}}})
    made = [bench.make()[1].id for _ in range(3)]
    bench.own(made[0], slot=2)
    bench.limit("acme", {"lanes": {"generate": {"concurrency": 2}}})

    def start_both(connection: Connection) -> tuple[Any, Any]:
        one = start_steps.start(connection, made[1], worker_id="w1", slot=0)
        return one, bench.start(made[2], slot=1)

    if bench.database.dialect == "postgresql":
        answers = bench.write(start_both)
    else:  # which has one writer at a time
        answers = bench.start(made[1], slot=0), bench.start(made[2], slot=1)
    assert isinstance(answers[0], OwnedAttempt)
    assert isinstance(answers[1], Refused)
    bench.complete(answers[0], {})
    assert isinstance(bench.start(made[2], slot=0), OwnedAttempt), "the lower slots are free for whoever comes"


@pytest.mark.parametrize("verb", ["cancel", "approve", "reject", "retry"])
def test_a_database_that_goes_away_after_the_commit_hides_no_answer(
    bench: Bench, steering: Jobs, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A 503 says that nothing was accepted."""
    plan = create_jobs.JobPlan(pipeline="blog", input={}, steps=ONE_STEP, approval=verb in ("approve", "reject"))
    job_id = bench.write(lambda c: create_jobs.create(c, "acme", [plan])).ids[0]
    if verb == "retry":
        steering.cancel(job_id)
    with monkeypatch.context() as patch:

        def away(work: Any) -> Any:
            raise Unavailable("away")

        patch.setattr(bench.database, "read", away)
        answer = getattr(steering, verb)(job_id)
    job = answer[0] if verb == "cancel" else answer
    wanted = {"cancel": "cancelled", "approve": "queued", "reject": "cancelled", "retry": "queued"}[verb]
    assert (job["status"], bench.job(job_id)["status"]) == (wanted, wanted)


def test_two_rescuers_take_a_step_once(bench: Bench) -> None:
    for number in range(ROUNDS):
        job_id, first = bench.make(account=f"account {number}")
        owned = bench.own(first.id)

        def lose(owned: OwnedAttempt = owned) -> bool:
            try:
                bench.write(lambda c: finish_steps.lose(c, owned.step_id, owned.run_token))
            except OwnershipLost:
                return False
            return True

        assert sorted(at_once(lose, lose)) == [False, True]
        assert bench.steps(job_id)[0]["lost"] == 1


def test_resume_against_an_erasure_that_begins(bench: Bench) -> None:
    """Who resumes comes second, and must see the erasure: an account that is active again would make new jobs."""
    bench.make()
    begun = threading.Event()

    def begin(connection: Connection) -> str:
        erasure_id = erasures.begin(connection, "acme", force=False, requested_by="somebody")
        begun.set()
        if connection.dialect.name == "postgresql":  # SQLite lets nobody in before this one is through
            wait_until_blocking(connection)
        return erasure_id

    with ThreadPoolExecutor(1) as pool:
        erasing = pool.submit(bench.write, begin)
        assert begun.wait(60)
        with pytest.raises(AccountBusy):
            bench.write(lambda c: accounts.set_status(c, "acme", "active"))
        erasing.result()
    assert bench.database.read(lambda c: accounts.fetch(c, "acme"))["status"] == "suspended"


def wait_until_blocking(connection: Connection) -> None:
    """Until another transaction waits for this one."""
    waiting = text("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))")
    until = time.monotonic() + 60
    while not connection.execute(waiting).scalar_one():
        assert time.monotonic() < until, "nobody waits"
