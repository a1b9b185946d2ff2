"""Whatever is checked and then acted upon holds exactly under 50 callers at one moment, on both databases.

A further limit is one more row of `LIMITS`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from orchestrator.control.jobs import Jobs
from tenants.account import AccountLimits, LaneLimits
from tenants.database.models import Job, Step
from tenants.database.transactions import Database
from tenants.errors import Conflict, LimitReached, NotFound
from tenants.store.accounts import accounts
from tenants.store.attempt import OwnedAttempt, Refused
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs.create import JobPlan, StepPlan
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import start as start_steps
from tests.orchestrator.web.sample_pipelines import PIPELINES
from tests.tenants.conftest import Bench
from tests.tenants.store.no_redis import NoRedis

CALLERS = 50
JOB = JobPlan("sample", {"topic": "lanes"})
_numbers = itertools.count(1)


class World:
    """Two processes' worth of connections, and an account of its own for each test."""

    def __init__(self, bench: Bench, databases: list[Database]) -> None:
        self.bench = bench
        self.account = f"account {next(_numbers)}"
        self.databases = databases
        pipelines = {each.name: each for each in PIPELINES}
        self.jobs = [Jobs(each, pipelines, NoRedis()) for each in databases]  # type: ignore[arg-type]

    def limit(self, **limits: Any) -> None:
        self.bench.write(lambda c: accounts.put_limits(c, self.account, AccountLimits(**limits)))

    def steps(self, number: int, *names: str) -> list[str]:
        """Waiting first steps, on these lanes in turn."""
        lanes = itertools.cycle(names)
        made = [self.bench.make(self.account, (StepPlan("one", next(lanes), True, 3),)) for _ in range(number)]
        return [first.id for _, first in made]

    def start(self, caller: int, step_id: str, slot: int) -> bool:
        """Whether this caller started the step; by the general path or the fast one."""
        if caller % 3 == 0:
            database = self.databases[caller % len(self.databases)]
            try:
                started = database.write(lambda c: start_steps.start(c, step_id, worker_id="w1", slot=slot))
            except IntegrityError:  # the slot is taken
                return False
        else:
            started = self.bench.start(step_id, slot)
        assert isinstance(started, OwnedAttempt | Refused), started
        return isinstance(started, OwnedAttempt)

    def count(self, *conditions: Any) -> int:
        return int(self.bench.database.read(lambda c: c.execute(select(func.count()).where(*conditions)).scalar_one()))

    def waiting_jobs(self) -> int:
        return self.count(Job.__table__.c.account == self.account)

    def running_steps(self) -> int:
        table = Step.__table__
        return self.count(table.c.account == self.account, table.c.status == "running")


@pytest.fixture
def world(bench: Bench, migrated_url: str) -> Iterator[World]:
    other = Database(migrated_url)
    yield World(bench, [bench.database, other])
    other.close()


@dataclass(frozen=True, slots=True)
class Limit:
    """`prepare` sets it up and gives one call for each caller, which is true when it was let through."""

    prepare: Callable[[World], Callable[[int], bool]]
    let_through: int
    #: What the rows say afterwards, and what they should.
    found: Callable[[World], int]
    wanted: int


def post(size: int, **limits: Any) -> Callable[[World], Callable[[int], bool]]:
    """Each caller makes one job, or a batch."""

    def prepare(world: World) -> Callable[[int], bool]:
        world.limit(**limits)

        def call(caller: int) -> bool:
            jobs = world.jobs[caller % len(world.jobs)]
            try:
                if size == 1:
                    jobs.create(world.account, JOB)
                else:
                    jobs.create_many(world.account, [JOB] * size)
            except LimitReached:
                return False
            return True

        return call

    return prepare


def unique_key(world: World) -> Callable[[int], bool]:
    def call(caller: int) -> bool:
        jobs = world.jobs[caller % len(world.jobs)]
        return jobs.create(world.account, JobPlan("sample", {"topic": "x"}, unique_key="one"))[1]

    return call


def start(slots: int, *lanes: str, **limits: Any) -> Callable[[World], Callable[[int], bool]]:
    """Each caller tries to start a step of its own, on a slot that others try as well."""

    def prepare(world: World) -> Callable[[int], bool]:
        world.limit(**limits)
        waiting = world.steps(CALLERS, *lanes)
        return lambda caller: world.start(caller, waiting[caller], caller // len(lanes) % slots)

    return prepare


def steer(verb: str) -> Callable[[World], Callable[[int], bool]]:
    """Each caller makes the same call for the same job, which only one of them can."""

    def prepare(world: World) -> Callable[[int], bool]:
        job_id, first = world.bench.make(world.account, approval=True)
        owned = world.bench.own(first.id)
        error = {"code": "internal", "message": "it broke"}
        letter = ""
        if verb in ("approve", "reject"):
            world.bench.complete(owned, {})
        else:
            world.bench.write(
                lambda c: finish_steps.fail(c, owned, outcome="failed", error=error, traceback=None, message={})
            )
            letters = world.bench.database.read(
                lambda c: dead_letters.heads(c, dead_letters.LetterFilter(account=world.account), limit=1)
            )
            letter = letters[0]["id"]

        def call(caller: int) -> bool:
            database, jobs = world.databases[caller % 2], world.jobs[caller % 2]
            calls: dict[str, Callable[[], Any]] = {
                "approve": lambda: jobs.approve(job_id),
                "reject": lambda: jobs.reject(job_id),
                "retry": lambda: jobs.retry(job_id),
                "replay": lambda: jobs.replay(letter),
                "discard": lambda: database.write(lambda c: dead_letters.resolve(c, letter, "discarded")),
            }
            try:
                calls[verb]()
            except (Conflict, NotFound):
                return False
            return True

        return call

    return prepare


def concurrency(most: int) -> dict[str, Any]:
    return {"lanes": {"publish": LaneLimits(concurrency=most)}}


LIMITS = {
    "max_waiting": Limit(post(1, max_waiting=5), 5, World.waiting_jobs, 5),
    "max_waiting, in batches": Limit(post(3, max_waiting=8), 2, World.waiting_jobs, 6),
    "daily_quota": Limit(post(1, daily_quota=5), 5, World.waiting_jobs, 5),
    "daily_quota, in batches": Limit(post(3, daily_quota=8), 2, World.waiting_jobs, 6),
    "both": Limit(post(1, max_waiting=7, daily_quota=6), 6, World.waiting_jobs, 6),
    "unique_key": Limit(unique_key, 1, World.waiting_jobs, 1),
    "concurrency of 1": Limit(start(2, "publish"), 1, World.running_steps, 1),
    "concurrency": Limit(start(5, "publish", **concurrency(3)), 3, World.running_steps, 3),
    "account_concurrency": Limit(
        start(1, *(f"lane-{number}" for number in range(10)), account_concurrency=4), 4, World.running_steps, 4
    ),
    **{verb: Limit(steer(verb), 1, World.waiting_jobs, 1) for verb in ("approve", "reject", "retry", "replay")},
    "discard": Limit(steer("discard"), 1, World.waiting_jobs, 1),
}


@pytest.mark.parametrize("name", list(LIMITS))
def test_a_limit_holds_exactly_under_50_callers(world: World, name: str) -> None:
    limit = LIMITS[name]
    call = limit.prepare(world)
    gate = threading.Barrier(CALLERS, timeout=120)

    def through(caller: int) -> bool:
        gate.wait()
        return call(caller)

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(through, range(CALLERS)))
    assert (sum(answers), limit.found(world)) == (limit.let_through, limit.wanted)


# --- a limit that is set while calls are under way -------------------------------------------------------------------


def waits_for_a_lock(world: World) -> bool:
    """PostgreSQL: another transaction waits; SQLite has one writer, so whoever writes waits."""
    if world.bench.database.dialect == "sqlite":
        return True
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(world.bench.database.read(lambda c: c.execute(text(waiting)).scalar_one()))


def until(true: Callable[[], bool]) -> None:
    """Wait for what happens in another thread or in the server; the caller looks then which it was."""
    tick = threading.Event()
    for _ in range(3000):
        if true():
            return
        tick.wait(0.02)


def put_while(world: World, start: Callable[[Any], Any], **limits: Any) -> Any:
    """Put limits while a start has not committed yet; it must wait for that. Gives back what the start answered."""
    began, going = threading.Event(), threading.Event()
    done = threading.Event()

    def work(connection: Any) -> Any:
        answer = start(connection)
        began.set()
        assert going.wait(60)
        return answer

    def put() -> None:
        world.limit(**limits)
        done.set()

    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(world.databases[1].write, work)
        assert began.wait(60)
        putting = pool.submit(put)
        until(lambda: done.is_set() or waits_for_a_lock(world))
        early = done.is_set()
        going.set()
        answer = starting.result(60)
        putting.result(60)
    assert not early, "the limits were changed under a start that went by the old ones"
    return answer


def test_a_lower_concurrency_waits_for_a_start_under_way(world: World) -> None:
    """Else the start would commit after others that the new limit let start, none of which has seen it."""
    world.limit(**concurrency(3))
    first, second, third = world.steps(3, "publish")
    answer = put_while(world, lambda c: start_steps.start(c, first, worker_id="w1", slot=2), **concurrency(2))
    assert isinstance(answer, OwnedAttempt)
    assert isinstance(world.bench.start(second, 0), OwnedAttempt), "one more may run beside it"
    assert isinstance(world.bench.start(third, 1), Refused)
    assert world.running_steps() == 2


def test_a_first_account_concurrency_waits_for_a_start_under_way(world: World) -> None:
    first, second = world.steps(2, "publish", "generate")
    answer = put_while(world, lambda c: start_steps.start(c, first, worker_id="w1", slot=0), account_concurrency=1)
    assert isinstance(answer, OwnedAttempt)
    assert isinstance(world.bench.start(second, 0), Refused)


@pytest.mark.parametrize("limits", [concurrency(1), {"account_concurrency": 1}], ids=["lane", "account"])
def test_a_start_waits_for_limits_that_are_being_changed(world: World, limits: dict[str, Any]) -> None:
    """On either path: a start that comes while the change is not committed goes by the new limits."""
    world.limit(**concurrency(2))
    first, second = world.steps(2, "publish")
    assert isinstance(world.bench.start(first, 0), OwnedAttempt)
    put, going = threading.Event(), threading.Event()

    def change(connection: Any) -> None:
        accounts.put_limits(connection, world.account, AccountLimits(**limits))
        put.set()
        assert going.wait(60)

    with ThreadPoolExecutor(2) as pool:
        changing = pool.submit(world.databases[1].write, change)
        assert put.wait(60)
        starting = pool.submit(world.bench.start, second, 1)
        until(lambda: starting.done() or waits_for_a_lock(world))
        early = starting.done()
        going.set()
        changing.result(60)
        answer = starting.result(60)
    assert not early
    assert isinstance(answer, Refused)


def test_limits_that_change_under_starts_bound_what_runs(world: World) -> None:
    """Up and down at random times: what runs is never more than the highest limit of the moment, and never grows past
    the new one once that is set."""
    world.limit(**concurrency(4))
    waiting = iter(world.steps(120, "publish"))
    before, running = 4, 0
    with ThreadPoolExecutor(9) as pool:
        for most in (2, 4, 1, 3, 1, 4):
            starts = [pool.submit(world.start, n, next(waiting), n % 4) for n in range(8)]
            putting = pool.submit(world.limit, **concurrency(most))
            putting.result(120)
            for each in starts:
                each.result(120)
            running = world.running_steps()
            assert running <= max(before, most)
            starts = [pool.submit(world.start, n, next(waiting), n % 4) for n in range(8)]
            for each in starts:
                each.result(120)
            assert world.running_steps() <= max(running, most)
            before = max(most, world.running_steps())


def test_a_job_made_just_before_its_limit_was_set_counts(world: World) -> None:
    """It was let in without a limit and is not committed when the first caller comes who has one."""
    made, going = threading.Event(), threading.Event()
    world.bench.make(world.account)  # the account is there, and has no limits

    def make(connection: Any) -> None:
        plan = world.jobs[1].plan(JOB)
        create_jobs.create(connection, world.account, [plan])
        made.set()
        assert going.wait(60)

    def limited() -> bool:
        world.limit(max_waiting=2)
        try:
            world.jobs[0].create(world.account, JOB)
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        making = pool.submit(world.databases[1].write, make)
        assert made.wait(60)
        second = pool.submit(limited)
        until(lambda: second.done() or waits_for_a_lock(world))
        going.set()
        making.result(60)
        assert second.result(60) is False
    assert world.waiting_jobs() == 2
