"""The worker's queue: every message finds a thread, in order of priority, also when waits end by time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import dramatiq
import pytest
from dramatiq import Message, Worker
from dramatiq.broker import MessageProxy
from dramatiq.common import iter_queue
from dramatiq.worker import _WorkQueueItem

from tenants.queues import TenantBroker
from tenants.queues.work_queue import Item, WorkItem, WorkQueue
from tests.tenants.queues.conftest import PATIENCE_MS


def item(number: int, priority: int = 0) -> WorkItem:
    """One that is known by its message's number."""
    return WorkItem(priority, MessageProxy(Message("publish", "act", (number,), {}, {})))


def number_of(taken: Item) -> int:
    (number,) = taken.message.args
    assert isinstance(number, int)
    return number


def test_the_first_comes_first_and_an_empty_queue_says_so() -> None:
    work = WorkQueue()
    for number, priority in enumerate((3, 1, 2)):
        work.put(item(number, priority))
    assert work.qsize() == 3
    assert [number_of(work.get(timeout=1)) for _ in range(3)] == [1, 2, 0]
    assert work.empty()
    with pytest.raises(queue.Empty):
        work.get(timeout=0.01)
    with pytest.raises(queue.Empty):
        work.get_nowait()


def test_of_one_priority_the_first_in_is_the_first_out() -> None:
    work = WorkQueue()
    work.put_all(item(number, number % 2) for number in range(6))
    assert number_of(work.get()) == 0
    work.put(item(6))
    assert [number_of(work.get()) for _ in range(6)] == [2, 4, 6, 1, 3, 5]
    work.put(item(7, 1))
    assert number_of(work.get_nowait()) == 7


def test_dramatiqs_own_items_stand_beside_ours() -> None:
    """Its consumer thread puts them for what it is given one by one."""
    work = WorkQueue()
    work.put(item(1, 5))
    work.put(_WorkQueueItem(0, item(2).message))
    work.put(_WorkQueueItem(5, item(3).message))
    assert [number_of(each) for each in iter_queue(work)] == [2, 1, 3]  # type: ignore[no-untyped-call]


def test_long_messages_get_a_thread_each() -> None:
    work = WorkQueue()
    together = threading.Barrier(5)

    def act() -> None:
        work.get(timeout=30)
        together.wait(timeout=30)

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        work.put(item(number))
    together.wait(timeout=30)
    for thread in threads:
        thread.join(timeout=30)


def test_nothing_is_left_lying_while_waits_end_by_time() -> None:
    work = WorkQueue()
    total = 3000
    took: list[int] = []
    done = threading.Event()

    def act() -> None:
        while not done.is_set():
            try:
                took.append(number_of(work.get(timeout=0.0005)))
            except queue.Empty:
                continue
            work.task_done()

    threads = [threading.Thread(target=act) for _ in range(6)]
    for thread in threads:
        thread.start()
    for number in range(total):
        work.put(item(number))
    work.join()
    done.set()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(took) == list(range(total))


def test_a_worker_of_greenlets_keeps_its_own_queue(
    broker: TenantBroker, start_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gevent exchanges the standard library's queue for one that has no mutex; ours is built on the former."""
    runs: list[int] = []

    @dramatiq.actor
    def act() -> None:
        runs.append(1)

    monkeypatch.setattr("tenants.queues.worker_state.is_gevent_active", lambda: True)
    act.send_with_options(account="acme")
    worker = start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert type(worker.work_queue) is queue.PriorityQueue
    assert runs == [1]
