"""Items that share a batch: each is run once and answered once, whatever fails beside it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenants.database import batching
from tenants.database.batching import BatchExecutor, BatchFailed

PATIENCE_SECONDS = 30.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


class Negation:
    """A `run_batch` that records its batches, and stands still until the gate opens."""

    def __init__(self, max_batch_size: int = 10, key: Callable[[int], bool] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.ran_in: list[threading.Thread] = []
        self.gate = threading.Event()
        #: Item → its error. Number of the batch → what is raised in it.
        self.errors: dict[int, Exception] = {}
        self.crashes: dict[int, BaseException] = {}
        self.executor: BatchExecutor[int, int] = BatchExecutor(self._run, max_batch_size=max_batch_size, key=key)

    def _run(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.ran_in.append(threading.current_thread())
        number = len(self.batches) - 1
        assert self.gate.wait(PATIENCE_SECONDS)
        if number in self.crashes:
            raise self.crashes[number]
        return [self.errors.get(item, -item) for item in items]

    def start(self, threads: ThreadPoolExecutor, *items: int) -> list[Future[int]]:
        """A call for each item: the first runs, then each is queued before the next one comes."""
        calls = []
        for place, item in enumerate(items):
            calls.append(threads.submit(self.executor.run, item))
            until(lambda place=place: bool(self.batches) and self.executor.queued == place)  # type: ignore[misc]
        return calls


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def test_an_item_that_is_alone_runs_in_its_callers_thread() -> None:
    negation = Negation()
    negation.gate.set()
    assert [negation.executor.run(item) for item in (1, 2, 3)] == [-1, -2, -3]
    assert negation.batches == [[1], [2], [3]]
    assert set(negation.ran_in) == {threading.current_thread()}
    assert batch_threads() == []


def test_items_that_come_while_one_runs_share_the_next_batches_in_order(threads: ThreadPoolExecutor) -> None:
    negation = Negation(max_batch_size=3)
    calls = negation.start(threads, 1, 2, 3, 4, 5)
    assert negation.batches == [[1]]
    negation.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2, -3, -4, -5]
    assert negation.batches == [[1], [2, 3, 4], [5]]
    assert negation.executor.run(6) == -6
    negation.executor.close()


def test_an_error_goes_to_its_items_caller(threads: ThreadPoolExecutor) -> None:
    negation = Negation()
    negation.errors = {2: ValueError("two")}
    calls = negation.start(threads, 1, 2, 3)
    negation.gate.set()
    assert (calls[0].result(PATIENCE_SECONDS), calls[2].result(PATIENCE_SECONDS)) == (-1, -3)
    with pytest.raises(ValueError, match="two"):
        calls[1].result(PATIENCE_SECONDS)
    negation.executor.close()


@pytest.mark.parametrize("crash", [KeyboardInterrupt(), KeyError("unknown")], ids=["interrupt", "error"])
def test_a_batch_that_crashes_leaves_no_item_without_an_answer(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, crash: BaseException
) -> None:
    negation = Negation(max_batch_size=2)
    calls = negation.start(threads, 1, 2, 3, 4)
    negation.crashes = {1: crash}
    negation.gate.set()
    assert calls[0].result(PATIENCE_SECONDS) == -1
    errors = [call.exception(PATIENCE_SECONDS) for call in calls[1:3]]
    assert [type(error) for error in errors] == [BatchFailed, BatchFailed]
    assert errors[0] is not errors[1]
    assert calls[3].result(PATIENCE_SECONDS) == -4
    assert "their outcome is unknown" in caplog.text
    assert negation.executor.run(7) == -7
    negation.executor.close()


@pytest.mark.parametrize("crash", [KeyboardInterrupt(), KeyError("unknown")], ids=["interrupt", "error"])
def test_what_an_item_that_is_alone_raises_is_its_own_and_the_others_run(
    threads: ThreadPoolExecutor, crash: BaseException
) -> None:
    negation = Negation()
    calls = negation.start(threads, 1, 2, 3)
    negation.crashes = {0: crash}
    negation.gate.set()
    assert calls[0].exception(PATIENCE_SECONDS) is crash
    assert [call.result(PATIENCE_SECONDS) for call in calls[1:]] == [-2, -3]
    negation.executor.close()


def test_a_batch_with_too_few_answers_is_an_error_of_each_item(threads: ThreadPoolExecutor) -> None:
    gate, begun = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> list[int]:
        begun.set()
        assert gate.wait(PATIENCE_SECONDS)
        return [1]

    executor: BatchExecutor[int, int] = BatchExecutor(run)
    calls = [threads.submit(executor.run, 0)]
    assert begun.wait(PATIENCE_SECONDS)
    calls += [threads.submit(executor.run, number) for number in (1, 2)]
    until(lambda: executor.queued == 2)
    gate.set()
    assert calls[0].result(PATIENCE_SECONDS) == 1
    assert [type(call.exception(PATIENCE_SECONDS)) for call in calls[1:]] == [BatchFailed, BatchFailed]
    executor.close()


def test_items_of_one_key_share_a_batch_with_the_one_that_waited_longest(threads: ThreadPoolExecutor) -> None:
    negation = Negation(max_batch_size=2, key=lambda item: item < 0)
    calls = negation.start(threads, 1, -2, 3, -4, 5, -6, 7)
    negation.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, 2, -3, 4, -5, 6, -7]
    assert negation.batches == [[1], [-2, -4], [3, 5], [-6], [7]]
    negation.executor.close()


def test_the_batch_thread_ends_without_work_and_starts_again(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "IDLE_SECONDS", 0.01)
    for _ in range(2):
        negation = Negation()
        calls = negation.start(threads, 1, 2)
        negation.gate.set()
        assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2]
        until(lambda: batch_threads() == [])


def test_without_a_batch_thread_the_caller_runs_what_is_queued(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    negation = Negation(max_batch_size=1)
    calls = negation.start(threads, 1, 2, 3)

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        negation.gate.set()
        assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2, -3]
    assert len(set(negation.ran_in)) == 1
    assert negation.executor.run(4) == -4


def test_closing_waits_until_all_that_is_queued_is_answered(threads: ThreadPoolExecutor) -> None:
    negation = Negation(max_batch_size=1)
    second = threading.Event()
    calls = negation.start(threads, 1, 2, 3)
    negation.crashes = {}
    negation.gate.set()
    calls[1].add_done_callback(lambda _: second.set())
    assert second.wait(PATIENCE_SECONDS)
    negation.executor.close()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2, -3]
    assert batch_threads() == []
    # And it can be used again
    negation.gate.clear()
    negation.batches.clear()
    calls = negation.start(threads, 4, 5)
    negation.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-4, -5]
    negation.executor.close()
    assert batch_threads() == []


def test_a_forked_child_runs_items_although_the_parent_was_running_some(threads: ThreadPoolExecutor) -> None:
    negation = Negation()
    calls = negation.start(threads, 1, 2, 3)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(int(PATIENCE_SECONDS))
            negation.gate = threading.Event()
            negation.gate.set()
            status = 0 if (negation.executor.run(9), negation.executor.queued) == (-9, 0) else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    negation.gate.set()
    assert [call.result(PATIENCE_SECONDS) for call in calls] == [-1, -2, -3]
    assert negation.batches == [[1], [2, 3]]
    negation.executor.close()


def test_items_of_many_threads_are_each_run_and_answered_once(threads: ThreadPoolExecutor) -> None:
    negation = Negation(max_batch_size=5)
    negation.gate.set()
    numbers = range(3000)
    assert list(threads.map(negation.executor.run, numbers)) == [-number for number in numbers]
    assert sorted(number for batch in negation.batches for number in batch) == list(numbers)
    negation.executor.close()


@settings(max_examples=30, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60),
    max_batch_size=st.integers(1, 8),
    callers=st.integers(1, 6),
    closes=st.booleans(),
)
def test_whatever_comes_each_item_is_run_once_and_its_own_error_raised(
    items: list[tuple[int, bool]], max_batch_size: int, callers: int, closes: bool
) -> None:
    batches: list[list[tuple[int, tuple[int, bool]]]] = []

    def run(batch: Sequence[tuple[int, tuple[int, bool]]]) -> list[int | Exception]:
        batches.append(list(batch))
        return [ValueError(number) if fails else number for number, (_, fails) in batch]

    executor: BatchExecutor[tuple[int, tuple[int, bool]], int] = BatchExecutor(
        run, key=lambda item: item[1][0], max_batch_size=max_batch_size
    )
    with ThreadPoolExecutor(callers) as threads:
        calls = [threads.submit(executor.run, numbered) for numbered in enumerate(items)]
        if closes:
            executor.close()
        for number, (call, (_, fails)) in enumerate(zip(calls, items, strict=True)):
            error = call.exception(PATIENCE_SECONDS)
            assert (error.args[0] if error else call.result()) == number
            assert bool(error) == fails
    executor.close()
    assert sorted(number for batch in batches for number, _ in batch) == list(range(len(items)))
    assert all(len(batch) <= max_batch_size and len({key for _, (key, _) in batch}) == 1 for batch in batches)
