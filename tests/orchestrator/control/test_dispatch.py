"""From SQL to Redis: what was sent is marked and not sent again, what was not is sent, what must be is sent anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dramatiq.errors import ConnectionClosed
from sqlalchemy import select, update

from orchestrator import metrics
from orchestrator.control.dispatch import AWAY_SECONDS, Dispatcher
from orchestrator.loops.dispatcher import DispatchLoop
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Step
from tenants.database.transactions import Database
from tenants.store import dispatch
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.conftest import make_service

STEPS = Step.__table__
PATIENCE_SECONDS = 60.0


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    """Without loops and workers: nothing happens but what the test does."""
    made = make_service(migrated_url, redis_url, tmp_path).runtime
    yield made
    made.close()


@pytest.fixture
def loop(runtime: Runtime) -> DispatchLoop:
    """Its clock does not keep the test waiting: every run looks, and what was sent is old at once."""
    made = DispatchLoop(runtime)
    made.look_seconds = made.soon_started_seconds = 0.0
    return made


def make(runtime: Runtime, number: int = 1) -> list[str]:
    return [
        str(runtime.jobs.create("acme", JobPlan("quick", {"do": "return"}))[0]["steps"][0]["id"]) for _ in range(number)
    ]


def age(runtime: Runtime, **values: Any) -> None:
    """All steps have been queued for a while."""
    runtime.database.write(lambda c: c.execute(update(STEPS).values(queued_at=db_now(-5.0), **values)))


def marked(runtime: Runtime) -> set[str]:
    query = select(STEPS.c.id).where(STEPS.c.dispatched_at.is_not(None))
    return set(runtime.database.read(lambda c: c.execute(query).scalars().all()))


def sent_again() -> float:
    return float(metrics.REDISPATCHED._value.get())


def without_redis(patch: pytest.MonkeyPatch, runtime: Runtime) -> list[str]:
    """From now on nobody answers there; gives back who asked."""
    asked: list[str] = []

    def unanswered(name: str) -> Any:
        def ask(*_: Any) -> None:
            asked.append(name)
            raise ConnectionClosed(OSError("nobody answers"))  # type: ignore[no-untyped-call]

        return ask

    patch.setattr(runtime.broker, "enqueue_once", unanswered("enqueue"))
    patch.setattr(runtime.broker, "enqueue_many", unanswered("enqueue"))
    patch.setattr(type(runtime.broker.queues_admin), "totals", unanswered("totals"))
    return asked


def set_clock(patch: pytest.MonkeyPatch) -> list[float]:
    """The dispatcher's clock, in seconds, which stands still."""
    clock = [1000.0]
    patch.setattr("orchestrator.control.dispatch.time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def test_what_was_sent_is_marked_and_not_sent_again(runtime: Runtime, loop: DispatchLoop) -> None:
    made, before = make(runtime, 12), sent_again()
    assert marked(runtime) == set()
    age(runtime)
    loop.run_once()
    assert marked(runtime) == set(made)
    assert sent_again() == before


def test_a_batch_is_marked_too(runtime: Runtime, loop: DispatchLoop) -> None:
    before = sent_again()
    runtime.jobs.create_many("acme", [JobPlan("quick", {"do": "return"})] * 1500)
    age(runtime)
    loop.run_once()
    assert len(marked(runtime)) == 1500
    assert sent_again() == before


def test_marking_ends_though_more_is_sent_all_the_time(
    runtime: Runtime, loop: DispatchLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commit takes a moment, in which more becomes old enough; that is left to the next run."""
    turns: list[int] = []
    mark = dispatch.mark_first_dispatch

    def mark_while_more_comes(database: Database, ids: Sequence[str]) -> None:
        turns.append(len(ids))
        assert len(turns) < 10, "marking goes on and on"
        mark(database, ids)
        make(runtime)

    monkeypatch.setattr(dispatch, "mark_first_dispatch", mark_while_more_comes)
    make(runtime, 3)
    loop.run_once()
    loop.run_once()
    assert turns == [3, 1]


def test_what_another_process_made_is_sent_after_a_second(runtime: Runtime) -> None:
    made, before = make(runtime, 3), sent_again()
    age(runtime)
    DispatchLoop(runtime).run_once()
    assert marked(runtime) == set(made)
    assert sent_again() == before + 3


def test_a_step_that_has_to_be_sent_anew_is_not_taken_for_sent(runtime: Runtime, loop: DispatchLoop) -> None:
    """It was sent, started, lost its message and waits again: the note of the first sending says nothing of that."""
    (step_id,) = make(runtime)
    age(runtime, run_token=1)
    runtime.broker.flush("quick")
    before = sent_again()
    loop.run_once()
    assert sent_again() == before + 1
    assert marked(runtime) == {step_id}
    assert runtime.broker.queues_admin.totals("quick").waiting == 1


def test_a_step_that_was_started_meanwhile_is_left_alone(runtime: Runtime, loop: DispatchLoop) -> None:
    make(runtime)
    age(runtime, status="running", run_token=1)
    loop.run_once()
    assert marked(runtime) == set()


def test_what_redis_refused_is_not_taken_for_sent(runtime: Runtime, loop: DispatchLoop) -> None:
    with pytest.MonkeyPatch.context() as patch:
        asked = without_redis(patch, runtime)
        (step_id,) = make(runtime)
        age(runtime)
        loop.run_once()
        assert marked(runtime) == set()
        assert asked == ["enqueue", "totals"]
    loop.run_once()
    assert marked(runtime) == {step_id}


@pytest.mark.parametrize("fails", [False, True])
def test_what_threads_send_at_one_moment_goes_in_one_call_each_is_reported(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The first call is held up until all others have come."""
    entries: list[list[str]] = []
    comes, goes = threading.Event(), threading.Event()
    enqueue_many = runtime.broker.enqueue_many

    def held_up(given: Sequence[Any]) -> int:
        entries.append([entry.id for entry in given])
        if len(entries) == 1:
            comes.set()
            assert goes.wait(PATIENCE_SECONDS)
        elif fails:
            raise ConnectionClosed("Redis has gone")  # type: ignore[no-untyped-call]
        return enqueue_many(given)

    make(runtime, 4)
    steps = runtime.database.read(lambda c: dispatch.waiting_after(c, None, horizon_seconds=60, limit=9))
    monkeypatch.setattr(runtime.broker, "enqueue_many", held_up)
    dispatcher = runtime.dispatcher
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(dispatcher.send, [steps[0]])]
        assert comes.wait(PATIENCE_SECONDS)
        for number, step in enumerate(steps[1:], start=1):
            calls.append(threads.submit(dispatcher.send, [step]))
            until = time.monotonic() + PATIENCE_SECONDS
            while dispatcher.queued < number:
                assert time.monotonic() < until, "it did not come along"
                time.sleep(0.002)
        goes.set()
        answers = [call.result(PATIENCE_SECONDS) for call in calls]
    assert entries == [[steps[0].id], [step.id for step in steps[1:]]]
    assert answers == [True] + 3 * [not fails]
    assert dispatcher.is_away() == fails


def test_a_batch_goes_by_itself(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one must not hold up the single steps of others, and waits for none of them."""
    comes, goes = threading.Event(), threading.Event()
    enqueue_many = runtime.broker.enqueue_many

    def held_up(given: Sequence[Any]) -> int:
        if len(given) == 1:
            comes.set()
            assert goes.wait(PATIENCE_SECONDS)
        return enqueue_many(given)

    make(runtime, 3)
    single, *batch = runtime.database.read(lambda c: dispatch.waiting_after(c, None, horizon_seconds=60, limit=9))
    monkeypatch.setattr(runtime.broker, "enqueue_many", held_up)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(runtime.dispatcher.send, [single])
        assert comes.wait(PATIENCE_SECONDS)
        assert threads.submit(runtime.dispatcher.send, batch).result(PATIENCE_SECONDS)
        assert not call.done()
        goes.set()
        assert call.result(PATIENCE_SECONDS)


def test_only_the_loop_asks_a_redis_that_failed(
    runtime: Runtime, loop: DispatchLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs takes 5 s of whoever asks: it was one caller in every two seconds, for as long as it hung."""
    asked, clock = without_redis(monkeypatch, runtime), set_clock(monkeypatch)
    make(runtime, 3)
    assert asked == ["enqueue"]
    clock[0] += 3600
    make(runtime, 3)
    assert asked == ["enqueue"]
    loop.run_once()
    assert asked == ["enqueue", "totals"]
    make(runtime)
    assert asked == ["enqueue", "totals"]


def test_a_process_without_the_loop_asks_again_by_itself(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, clock = without_redis(monkeypatch, runtime), set_clock(monkeypatch)
    dispatcher = Dispatcher(runtime.broker)
    step = dispatch.Dispatch("an id", "acme", "quick", "quick", "quick", 5, 1, None)
    assert [dispatcher.send([step]) for _ in range(3)] == [False] * 3
    assert asked == ["enqueue"]
    clock[0] += AWAY_SECONDS
    assert not dispatcher.send([step])
    assert asked == ["enqueue"] * 2


def test_marks_of_steps_that_are_gone_do_nothing(runtime: Runtime) -> None:
    dispatch.mark_first_dispatch(runtime.database, ["no such step"])
    dispatch.mark_first_dispatch(runtime.database, [])
    assert marked(runtime) == set()
