"""One suite for both implementations of the job store: the same calls, the same answers, the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from tenants.database.columns import db_now
from tenants.database.models import Account, Circuit, Event, Job, Lane, Step, TenantQueue, Usage
from tenants.database.transactions import Database
from tenants.errors import AccountDraining, AccountSuspended, OwnershipLost, QueueFull, QuotaExhausted
from tenants.store.accounts.accounts import ensure_account
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.job_store import JobStore, PortableStore, PostgresStore
from tenants.store.jobs import approval as approvals
from tenants.store.jobs import read as jobs
from tenants.store.jobs import timers as clock
from tenants.store.jobs.create import Created, JobPlan, StepPlan
from tenants.store.steps import finish as finish_steps

from ..conftest import TWO_STEPS, Bench

BEST_EFFORT = (StepPlan("generate", "generate", True, 3), StepPlan("publish", "publish", False, 1))
LANES = {"lanes": {"generate": {"concurrency": 2}}}


class Stand(Bench):
    """A bench that runs everything by one implementation."""

    def __init__(self, database: Database, store: JobStore) -> None:
        super().__init__(database)
        self.store = store

    def create(self, *plans: JobPlan, account: str = "acme", again: bool = False) -> Created:
        return self.store.create(account, plans, again=again)

    def start(self, step_id: str, slot: int = 0, worker: str = "w1") -> OwnedAttempt | Refused | NotRunnable:
        return self.store.start(step_id, worker_id=worker, slot=slot)

    def one(self, steps: tuple[StepPlan, ...] = TWO_STEPS, **options: Any) -> str:
        """The id of the first step of a new job."""
        return str(self.create(plan(steps, **options)).jobs[0].steps[0]["id"])

    def set(self, table: Any, **values: Any) -> None:
        self.write(lambda c: c.execute(update(table).values(**values)))

    def insert(self, table: Any, **values: Any) -> None:
        self.write(lambda c: c.execute(table.insert().values(**values)))


def plan(steps: tuple[StepPlan, ...] = TWO_STEPS, **options: Any) -> JobPlan:
    return JobPlan(pipeline="blog", input={"topic": "x"}, steps=steps, **options)


@pytest.fixture(params=["portable", "postgres"])
def stand(request: pytest.FixtureRequest, database: Database) -> Stand:
    if request.param == "portable":
        made = Stand(database, PortableStore(database))
    elif database.dialect == "sqlite":
        pytest.skip("SQLite has the portable implementation alone")
    else:
        made = Stand(database, PostgresStore(database))
    made.write(lambda c: ensure_account(c, "acme"))
    return made


# --- create ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"approval": True, "tags": ("a", "文"), "expires_in": 5.25, "deadline": 7.5, "priority": 0},
        {"delay": 30.0},
        {"run_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"unique_key": "k", "callback_url": "https://example.com/x"},
    ],
)
def test_a_created_job_is_returned_as_it_is_read(stand: Stand, options: dict[str, Any]) -> None:
    wanted = plan(**options)
    created = stand.create(wanted)
    (rows,) = created.jobs
    assert created.new == {wanted.id}
    assert dict(rows.job) == dict(stand.job(wanted.id))
    assert [dict(step) for step in rows.steps] == [dict(step) for step in stand.steps(wanted.id)]
    assert [step.id for step in created.queued] == [rows.steps[0]["id"]]


def test_a_job_is_counted_and_has_an_event(stand: Stand) -> None:
    stand.create(plan())
    stand.create(plan())
    jobs_today = stand.database.read(lambda c: c.execute(select(Usage.__table__.c.jobs)).scalars().all())
    events = stand.database.read(lambda c: c.execute(select(Event.__table__.c.type, Event.__table__.c.data)).all())
    assert jobs_today == [2]
    assert [tuple(each) for each in events] == [("status", {"status": "queued"})] * 2


def test_the_first_job_creates_its_account(stand: Stand) -> None:
    assert stand.create(plan(), account="new").new
    assert stand.database.read(
        lambda c: c.execute(select(Account.__table__.c.status).where(Account.__table__.c.id == "new")).scalar_one()
    ) == ("active")


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"status": "draining"}, AccountDraining),
        ({"status": "suspended"}, AccountSuspended),
        ({"limits": {"max_waiting": 1}}, QueueFull),
        ({"limits": {"daily_quota": 1}}, QuotaExhausted),
    ],
)
def test_an_account_refuses_a_job(stand: Stand, values: dict[str, Any], refusal: type[Exception]) -> None:
    stand.create(plan())
    stand.set(Account.__table__, **values)
    with pytest.raises(refusal):
        stand.create(plan())
    assert len(stand.database.read(lambda c: c.execute(select(Job.__table__.c.id)).all())) == 1


def test_an_unfinished_job_has_its_unique_key_alone(stand: Stand) -> None:
    first, second = plan(unique_key="k"), plan(unique_key="k")
    stand.create(first)
    created = stand.create(second)
    assert (created.ids, created.new, created.queued) == ([first.id], frozenset(), ())


@pytest.mark.parametrize("number", [1, 2])
def test_the_same_plans_again_create_nothing(stand: Stand, number: int) -> None:
    plans = [plan() for _ in range(number)]
    before = stand.create(*plans)
    again = stand.create(*plans, again=True)
    assert (again.ids, again.new, again.queued) == (before.ids, before.new, ())
    assert len(stand.database.read(lambda c: c.execute(select(Job.__table__.c.id)).all())) == number


# --- start -----------------------------------------------------------------------------------------------------------


def test_a_start_owns_the_step(stand: Stand) -> None:
    step_id = stand.one(deadline=60.0)
    owned = stand.own(step_id)
    assert (owned.run_token, owned.attempt, owned.outputs, owned.canary) == (1, 1, {}, False)
    assert owned.deadline_seconds == 60.0
    assert owned.following is not None
    assert owned.following.lane == "publish"
    job = stand.job(owned.job_id)
    assert (job["status"], job["current_step"]) == ("running", "generate")
    (attempt,) = stand.attempts(owned.job_id)
    assert (attempt["number"], attempt["worker"], attempt["outcome"]) == (1, "w1", None)
    assert (job["deadline_at"] - job["started_at"]).total_seconds() == pytest.approx(60.0, abs=1.0)


def _cancelled(stand: Stand) -> None:
    stand.set(Job.__table__, cancel_requested_at=db_now())


def _circuit(until: float) -> Callable[[Stand], None]:
    def work(stand: Stand) -> None:
        stand.write(
            lambda c: c.execute(
                Circuit.__table__.insert().values(
                    account="acme",
                    lane="generate",
                    failures=3,
                    opened_at=db_now(),
                    until=db_now(until),
                    cooldown_seconds=60.0,
                    updated_at=db_now(),
                )
            )
        )

    return work


#: What is done to a waiting step, then its answer (a part of its reason), and the job's status after it.
REASONS: dict[str, tuple[Callable[[Stand], Any], str, str]] = {
    "not due": (lambda s: s.set(Step.__table__, due_at=db_now(60.0)), "not due", "queued"),
    "account paused": (lambda s: s.set(Account.__table__, status="paused"), "account is paused", "queued"),
    "account suspended": (lambda s: s.set(Account.__table__, status="suspended"), "account is suspended", "queued"),
    "lane paused": (
        lambda s: s.insert(Lane.__table__, lane="generate", paused=True),
        "queue or its lane is paused",
        "queued",
    ),
    "queue paused": (
        lambda s: s.insert(TenantQueue.__table__, lane="generate", account="acme", paused=True),
        "queue or its lane is paused",
        "queued",
    ),
    "circuit open": (_circuit(30.0), "circuit is open", "queued"),
    "running": (lambda s: s.set(Step.__table__, status="running"), "another attempt runs", "queued"),
    "step ended": (lambda s: s.set(Step.__table__, status="completed"), "the step is completed", "queued"),
    "job ended": (
        lambda s: s.set(Job.__table__, status="failed", finished_at=db_now()),
        "the job is failed",
        "failed",
    ),
    "cancelled": (_cancelled, "job was cancelled", "cancelled"),
    "expired": (lambda s: s.set(Job.__table__, expires_at=db_now(-1.0)), "job has expired", "expired"),
    "deadline": (lambda s: s.set(Job.__table__, deadline_at=db_now(-1.0)), "deadline has passed", "timed_out"),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_step_that_may_not_start_says_why(stand: Stand, case: str) -> None:
    happens, reason, status = REASONS[case]
    created = stand.create(plan())
    happens(stand)
    answer = stand.start(created.queued[0].id)
    assert isinstance(answer, Refused | NotRunnable), answer
    assert reason in answer.reason
    assert stand.job(created.ids[0])["status"] == status
    assert stand.attempts(created.ids[0]) == []


def test_a_step_that_does_not_exist_is_not_runnable(stand: Stand) -> None:
    assert stand.start("01900000-0000-7000-8000-000000000000") == NotRunnable("the step does not exist")


@pytest.mark.parametrize(
    ("limits", "slot", "reason"),
    [
        (None, 1, "slot 1 is beyond the concurrency of 1"),
        (LANES, 0, "slot 0 of the tenant queue is taken"),
        ({**LANES, "account_concurrency": 1}, 1, "account runs as many steps"),
    ],
)
def test_limits_refuse_a_second_step(stand: Stand, limits: Any, slot: int, reason: str) -> None:
    first, second = stand.one(), stand.one()
    stand.limit("acme", limits)
    stand.own(first)
    answer = stand.start(second, slot)
    assert isinstance(answer, Refused)
    assert reason in answer.reason


def test_a_step_on_a_higher_slot_counts_after_the_concurrency_was_lowered(stand: Stand) -> None:
    first, second = stand.one(), stand.one()
    stand.limit("acme", LANES)
    stand.own(first, 1)
    stand.limit("acme", {})
    answer = stand.start(second, 0)
    assert isinstance(answer, Refused)
    assert "tenant queue runs as many steps" in answer.reason


def test_an_open_circuit_lets_one_canary_start_and_its_success_closes_it(stand: Stand) -> None:
    first, second = stand.one(), stand.one()
    stand.limit("acme", LANES)
    _circuit(-1.0)(stand)
    canary = stand.own(first)
    refused = stand.start(second, 1)
    assert canary.canary
    assert isinstance(refused, Refused)
    assert refused.redis_stale
    stand.store.complete(canary, {})
    assert stand.database.read(lambda c: c.execute(select(Circuit.__table__)).all()) == []


# --- complete --------------------------------------------------------------------------------------------------------


def test_the_last_step_completes_the_job(stand: Stand) -> None:
    owned = stand.own(stand.one())
    following = stand.store.complete(owned, {"draft": 1})
    assert following == owned.following
    assert following is not None
    last = stand.own(following.id)
    assert last.outputs == {"generate": {"draft": 1}}
    assert stand.store.complete(last, {"url": "u"}) is None
    job = stand.job(owned.job_id)
    assert (job["status"], job["result"], job["current_step"]) == ("completed", {"url": "u"}, None)
    assert [each["outcome"] for each in stand.attempts(owned.job_id)] == ["completed"] * 2


def test_a_best_effort_last_step_leaves_the_result_to_the_required_one(stand: Stand) -> None:
    owned = stand.own(stand.one(BEST_EFFORT))
    following = stand.store.complete(owned, {"draft": 1})
    assert following is not None
    stand.store.complete(stand.own(following.id), {"extra": 1})
    assert stand.job(owned.job_id)["result"] == {"draft": 1}


def test_a_last_step_awaits_approval(stand: Stand) -> None:
    owned = stand.own(stand.one(approval=True))
    assert stand.store.complete(owned, {}) is None
    assert stand.job(owned.job_id)["status"] == "awaiting_approval"
    last = stand.steps(owned.job_id)[1]["id"]
    assert isinstance(stand.start(last), NotRunnable)
    stand.write(lambda c: approvals.approve(c, jobs.lock(c, owned.job_id, None)))
    stand.store.complete(stand.own(last), {})
    assert stand.job(owned.job_id)["status"] == "completed"


def test_a_job_to_be_cancelled_ends_with_its_step(stand: Stand) -> None:
    owned = stand.own(stand.one())
    _cancelled(stand)
    assert stand.store.complete(owned, {"draft": 1}) is None
    assert stand.job(owned.job_id)["status"] == "cancelled"
    assert [step["status"] for step in stand.steps(owned.job_id)] == ["completed", "cancelled"]


def test_a_webhook_is_called_after_the_last_step(stand: Stand) -> None:
    owned = stand.own(stand.one(TWO_STEPS[:1], callback_url="https://example.com/x"))
    delivery = stand.store.complete(owned, {})
    assert delivery is not None
    assert delivery.pipeline == "webhook"


def test_another_attempt_owns_the_step(stand: Stand) -> None:
    stale = stand.own(stand.one())
    stand.write(lambda c: finish_steps.lose(c, stale.step_id, stale.run_token))
    fresh = stand.own(stale.step_id)
    with pytest.raises(OwnershipLost):
        stand.store.complete(stale, {"late": True})
    assert stand.steps(stale.job_id)[0]["output"] is None
    stand.store.complete(fresh, {"late": False})
    with pytest.raises(OwnershipLost):
        stand.store.complete(fresh, {"twice": True})
    assert stand.steps(stale.job_id)[0]["output"] == {"late": False}


def test_success_ends_the_failures_in_a_row(stand: Stand) -> None:
    values: dict[str, Any] = {"account": "acme", "lane": "generate", "failures": 1, "updated_at": db_now()}
    stand.insert(Circuit.__table__, **values)
    stand.store.complete(stand.own(stand.one()), {})
    assert stand.database.read(lambda c: c.execute(select(Circuit.__table__)).all()) == []


def test_a_delayed_job_starts_when_its_time_has_come(stand: Stand) -> None:
    created: Created = stand.create(plan(delay=60.0))
    step: Sequence[Any] = created.queued
    assert isinstance(stand.start(step[0].id), Refused)
    stand.set(Job.__table__, run_at=db_now(-1.0))
    stand.set(Step.__table__, due_at=db_now(-1.0))
    assert stand.write(lambda c: clock.queue_due_jobs(c, limit=10)) == 1
    stand.own(step[0].id)
