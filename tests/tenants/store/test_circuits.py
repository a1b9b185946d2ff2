"""A tenant queue that keeps failing rests: SQL decides at each start, on both databases, by every way of starting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, update

from tenants import webhooks
from tenants.database.columns import db_now
from tenants.database.models import Alert, Circuit, new_id
from tenants.database.postgres_statements import PreparedStatements
from tenants.store.accounts import circuits
from tenants.store.accounts import settings as store_settings
from tenants.store.accounts.circuits import CircuitPolicy
from tenants.store.attempt import OwnedAttempt, Refused
from tenants.store.job_store import job_store
from tenants.store.jobs import finish as endings
from tenants.store.jobs.create import StepPlan
from tenants.store.steps import finish as finish_steps
from tests.tenants.conftest import Bench

POLICY = CircuitPolicy(failures=3, cooldown_seconds=60.0)
ONE_STEP = (StepPlan("publish", "publish", True, 3),)
ERROR = {"code": "publish_failed", "message": "no"}
TABLE = Circuit.__table__


class Breaker:
    """A tenant queue whose steps end as a test wants it."""

    def __init__(self, bench: Bench, account: str = "acme", policy: CircuitPolicy = POLICY) -> None:
        self.bench = bench
        self.account = account
        self.policy = policy

    def start(self, slot: int = 0, **plan: Any) -> OwnedAttempt | Refused:
        _, step = self.bench.make(self.account, **{"steps": ONE_STEP, **plan})
        started = self.bench.start(step.id, slot)
        assert isinstance(started, OwnedAttempt | Refused), started
        return started

    def own(self, slot: int = 0, **plan: Any) -> OwnedAttempt:
        started = self.start(slot, **plan)
        assert isinstance(started, OwnedAttempt), started
        return started

    def fail(self, owned: OwnedAttempt | None = None, code: str = "publish_failed") -> None:
        mine = owned or self.own()
        error = {"code": code, "message": "no"}
        self.bench.write(
            lambda c: finish_steps.fail(
                c, mine, outcome="failed", error=error, traceback=None, message={}, circuit=self.policy
            )
        )

    def retry(self, owned: OwnedAttempt, outcome: Any = "failed") -> None:
        self.bench.write(
            lambda c: finish_steps.retry(c, owned, outcome=outcome, error=ERROR, delay_seconds=0.0, circuit=self.policy)
        )
        self.bench.write(lambda c: endings.end(c, owned.job, "cancelled"))  # nothing of it is left waiting

    def open(self) -> None:
        for _ in range(self.policy.failures):
            self.fail()
        assert self.row.opened_at is not None

    def let_time_come(self) -> None:
        """The cooldown is over."""
        self.bench.write(lambda c: c.execute(update(TABLE).where(self._mine).values(until=db_now(-1.0))))

    @property
    def _mine(self) -> Any:
        return (TABLE.c.account == self.account) & (TABLE.c.lane == "publish")

    @property
    def row(self) -> Any:
        return self.bench.database.read(lambda c: c.execute(select(TABLE).where(self._mine)).one_or_none())

    @property
    def seconds_left(self) -> float:
        now = self.bench.database.read(lambda c: c.execute(select(db_now())).scalar_one())
        return float((self.row.until - now).total_seconds())

    def alerts(self) -> list[str]:
        table = Alert.__table__
        rows = self.bench.database.read(lambda c: c.execute(select(table).order_by(table.c.seq)).all())
        return [row.kind for row in rows if row.kind.startswith("circuit_")]


@pytest.fixture
def breaker(bench: Bench) -> Breaker:
    return Breaker(bench)


def test_failures_in_a_row_open_it_and_nothing_starts(bench: Bench, breaker: Breaker) -> None:
    breaker.fail()
    breaker.fail()
    assert breaker.row.opened_at is None, "two are not three"
    breaker.fail()
    refused = breaker.start()
    assert isinstance(refused, Refused)
    assert refused.redis_stale, "Redis should have paused it"
    assert 50 < breaker.seconds_left <= 60
    assert breaker.alerts() == ["circuit_open"]
    assert isinstance(Breaker(bench, "other").start(), OwnedAttempt), "another account's queue is not concerned"
    _, step = bench.make("acme")
    assert isinstance(bench.start(step.id), OwnedAttempt), "nor is another lane of the account"


def test_a_success_ends_the_row(breaker: Breaker, bench: Bench) -> None:
    for _ in range(3):
        breaker.fail()
        breaker.fail()
        owned = breaker.own()
        assert owned.after_failures
        bench.complete(owned, {})
        assert breaker.row is None
    assert breaker.alerts() == []


def test_a_success_that_began_before_the_failures_ends_the_row_too(breaker: Breaker, bench: Bench) -> None:
    bench.limit("acme", {"lanes": {"publish": {"concurrency": 2}}})
    early = breaker.own(slot=1)
    breaker.fail()
    breaker.fail()
    bench.complete(early, {})
    assert breaker.row is None


def test_a_success_that_ends_its_job_with_a_call_does_so_too(breaker: Breaker, bench: Bench) -> None:
    """The general path through the store."""
    breaker.fail()
    bench.complete(breaker.own(callback_url="https://receiver.example/hook"), {})
    assert breaker.row is None


def cancelled(breaker: Breaker) -> None:
    owned = breaker.own()
    breaker.bench.write(lambda c: finish_steps.cancel(c, owned))


def past_its_deadline(breaker: Breaker) -> None:
    owned = breaker.own()
    breaker.bench.write(lambda c: finish_steps.time_out_job(c, owned))


#: Ends that are no failures of the queue.
UNCOUNTED: dict[str, Callable[[Breaker], None]] = {
    "cancelled": cancelled,
    "past its deadline": past_its_deadline,
    "snoozed": lambda breaker: breaker.retry(breaker.own(), "snoozed"),
    "provider busy": lambda breaker: breaker.retry(breaker.own(), "provider_busy"),
    "lost": lambda breaker: breaker.retry(breaker.own(), "lost"),
    "to be tried again": lambda breaker: breaker.retry(breaker.own(), "failed"),
    "wants a session": lambda breaker: breaker.fail(code="login_required"),
    "best effort": lambda breaker: breaker.fail(breaker.own(steps=(StepPlan("publish", "publish", False, 1),))),
    "a webhook": lambda breaker: breaker.fail(replace(breaker.own(), pipeline=webhooks.PIPELINE)),
}


def test_what_is_no_failure_of_the_queue_counts_nothing(breaker: Breaker) -> None:
    for name, end in UNCOUNTED.items():
        end(breaker)
        assert breaker.row is None, name


def test_without_a_policy_nothing_is_counted(bench: Bench, breaker: Breaker) -> None:
    for _ in range(9):
        owned = breaker.own()
        bench.write(
            lambda c, owned=owned: finish_steps.fail(  # type: ignore[misc]
                c, owned, outcome="failed", error=ERROR, traceback=None, message={}
            )
        )
    assert breaker.row is None


def test_one_canary_alone_starts_and_its_success_closes_the_circuit(breaker: Breaker, bench: Bench) -> None:
    bench.limit("acme", {"lanes": {"publish": {"concurrency": 3}}})
    breaker.open()
    breaker.let_time_come()
    canary = breaker.own()
    assert canary.canary
    assert isinstance(breaker.start(slot=1), Refused)
    bench.complete(canary, {})
    assert breaker.row is None
    assert [breaker.own(slot=slot).canary for slot in (0, 1, 2)] == [False, False, False]
    assert breaker.alerts() == ["circuit_open", "circuit_closed"]


def test_of_two_that_start_at_once_one_is_the_canary(breaker: Breaker, bench: Bench) -> None:
    bench.limit("acme", {"lanes": {"publish": {"concurrency": 4}}})
    breaker.open()
    breaker.let_time_come()
    steps = [bench.make("acme", steps=ONE_STEP)[1].id for _ in range(4)]
    at_once = threading.Barrier(4)

    def start(slot: int) -> Any:
        at_once.wait(30)
        return bench.start(steps[slot], slot)

    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(start, range(4)))
    assert sum(isinstance(each, OwnedAttempt) for each in started) == 1, started


def test_a_canary_longer_than_the_cooldown_stays_the_only_one(breaker: Breaker, bench: Bench) -> None:
    bench.limit("acme", {"lanes": {"publish": {"concurrency": 2}}})
    breaker.open()
    breaker.let_time_come()
    breaker.own()
    breaker.let_time_come()
    assert isinstance(breaker.start(slot=1), Refused)
    (found,) = bench.database.read(lambda c: store_settings.of_accounts(c, ["acme"]))
    assert [pause.reason for pause in found.pauses] == ["circuit_open"], "Redis must not let the rest come meanwhile"
    shown = circuits.view(bench.database.read(lambda c: circuits.of_lane(c, "publish", "acme")))
    assert shown is not None
    assert shown["status"] == "half_open"


def test_each_failed_canary_doubles_the_cooldown_up_to_an_hour(breaker: Breaker) -> None:
    breaker.open()
    seen = []
    for number in range(8):
        breaker.let_time_come()
        canary = breaker.own()
        if number % 2:
            breaker.fail(canary)
        else:
            breaker.retry(canary)  # it has attempts left, and says as much
        seen.append(breaker.row.cooldown_seconds)
        assert breaker.row.cooldown_seconds - 20 < breaker.seconds_left <= breaker.row.cooldown_seconds
    assert seen == [120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert breaker.alerts() == ["circuit_open"]


def test_a_canary_that_says_nothing_lets_another_come_a_cooldown_later(breaker: Breaker) -> None:
    breaker.open()
    for outcome in ("lost", "snoozed", "provider_busy"):
        breaker.let_time_come()
        canary = breaker.own()
        assert canary.canary
        breaker.retry(canary, outcome)
        assert isinstance(breaker.start(), Refused), outcome
        assert breaker.row.cooldown_seconds == 60


def test_closed_by_hand_and_the_canary_of_before_changes_nothing_any_more(breaker: Breaker, bench: Bench) -> None:
    breaker.open()
    breaker.let_time_come()
    canary = breaker.own()
    assert bench.write(lambda c: circuits.close(c, "acme", "publish")) == ["publish"]
    bench.limit("acme", {"lanes": {"publish": {"concurrency": 2}}})
    for _ in range(2):
        breaker.fail(breaker.own(slot=1))
    breaker.fail(canary)
    assert (breaker.row.failures, breaker.row.cooldown_seconds) == (3, 60), "it counted as any other"


def test_redis_gets_it_beside_other_pauses(breaker: Breaker, bench: Bench) -> None:
    breaker.open()
    (found,) = bench.database.read(lambda c: store_settings.of_accounts(c, ["acme"]))
    assert [(pause.lane, pause.reason) for pause in found.pauses] == [("publish", "circuit_open")]
    assert found.pauses[0].until is not None, "Redis ends the pause by itself, if no process does"
    assert "acme" in bench.database.read(lambda c: store_settings.accounts_with_settings(c, after="", limit=9))


def test_a_step_that_completes_pays_nothing(bench: Bench, breaker: Breaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement to start and one to complete on PostgreSQL; on SQLite none that was not there before."""
    breaker.fail()
    bench.complete(breaker.own(), {})
    _, step = bench.make("acme", steps=ONE_STEP)
    said: list[str] = []
    if bench.database.dialect == "postgresql":
        run = PreparedStatements.run

        def traced(self: PreparedStatements, statement: str, parameters: Any) -> Any:
            said.append(statement)
            return run(self, statement, parameters)

        monkeypatch.setattr(PreparedStatements, "run", traced)
        event.listen(bench.database.engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    else:
        pool = bench.database.engine.pool
        event.listen(pool, "checkout", lambda connection, *_: connection.set_trace_callback(said.append))
    owned = job_store(bench.database).start(step.id, worker_id="w1", slot=0)
    assert isinstance(owned, OwnedAttempt)
    starts = len(said)
    job_store(bench.database).complete(owned, {})
    assert said, "the store goes another way than this test thinks"
    if bench.database.dialect == "postgresql":
        assert (starts, len(said) - starts) == (1, 1)
    assert not [text for text in said[starts:] if "circuits" in text]


def test_old_failures_are_forgotten_and_open_circuits_are_not(breaker: Breaker, bench: Bench) -> None:
    breaker.open()
    quiet = Breaker(bench, "quiet")
    quiet.fail()
    bench.write(lambda c: c.execute(update(TABLE).values(updated_at=db_now(-100.0))))
    bench.write(lambda c: circuits.forget(c, older_than=50.0))
    assert quiet.row is None
    assert breaker.row is not None, "its time has not come yet"
    assert bench.write(circuits.close_all) == ["acme"]


def test_one_that_holds_nothing_up_is_not_counted_and_forgotten_in_the_end(breaker: Breaker, bench: Bench) -> None:
    breaker.open()
    assert bench.database.read(circuits.open_by_lane) == {}
    breaker.start()
    assert bench.database.read(circuits.open_by_lane) == {"publish": 1}
    bench.write(lambda c: c.execute(update(TABLE).values(updated_at=db_now(-100.0), until=db_now(-100.0))))
    bench.write(lambda c: circuits.forget(c, older_than=50.0))
    assert breaker.row is None


class Model:
    """A circuit in plain Python, with the time of its cooldown as a flag."""

    def __init__(self) -> None:
        self.failures = 0
        self.cooldown: float | None = None
        self.ready = False

    @property
    def open(self) -> bool:
        return self.cooldown is not None

    def may_start(self) -> bool:
        return not self.open or self.ready

    def reset(self) -> None:
        self.failures, self.cooldown, self.ready = 0, None, False

    def end(self, how: str) -> None:
        canary, self.ready = self.open, False
        if how == "succeed":
            self.reset()
        elif canary and how in ("fail", "retry"):
            self.failures += 1
            assert self.cooldown is not None
            self.cooldown = min(3600.0, 2 * self.cooldown)
        elif how == "fail":
            self.failures += 1
            if self.failures >= POLICY.failures:
                self.cooldown = POLICY.cooldown_seconds


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.sampled_from("fail fail succeed retry snooze wait wait resume".split()), max_size=14))
def test_it_does_what_a_plain_model_does(bench: Bench, happenings: list[str]) -> None:
    breaker, model = Breaker(bench, new_id()), Model()
    for happens in happenings:
        if happens == "wait":
            model.ready = model.open
            breaker.let_time_come()
        elif happens == "resume":
            model.reset()
            bench.write(lambda c: circuits.close(c, breaker.account))
        else:
            started = breaker.start()
            assert isinstance(started, OwnedAttempt) == model.may_start(), happenings
            if isinstance(started, OwnedAttempt):
                assert started.canary == model.open
                match happens:
                    case "fail":
                        breaker.fail(started)
                    case "succeed":
                        bench.complete(started, {})
                    case _:
                        breaker.retry(started, "failed" if happens == "retry" else "snoozed")
                model.end(happens)
        row = breaker.row
        assert (row.failures if row else 0) == model.failures
        assert (row.cooldown_seconds if row else None) == model.cooldown
        assert (row is not None and row.opened_at is not None) == model.open
