"""The worker's queue: every message finds a thread, in order of priority, also when waits end by time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import dramatiq
import pytest
from dramatiq import Worker

from tenants.queues import TenantBroker
from tenants.queues.work_queue import WorkQueue
from tests.queues.conftest import PATIENCE_MS


def test_the_first_comes_first_and_an_empty_queue_says_so() -> None:
    work = WorkQueue()
    for item in (3, 1, 2):
        work.put(item)
    assert [work.get(timeout=1) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(queue.Empty):
        work.get(timeout=0.01)
    with pytest.raises(queue.Empty):
        work.get_nowait()


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
        work.put(number)
    together.wait(timeout=30)
    for thread in threads:
        thread.join(timeout=30)


def test_nothing_is_left_lying_while_waits_end_by_time() -> None:
    work = WorkQueue()
    total, took = 3000, []
    done = threading.Event()

    def act() -> None:
        while not done.is_set():
            try:
                took.append(work.get(timeout=0.0005))
            except queue.Empty:
                continue
            work.task_done()

    threads = [threading.Thread(target=act) for _ in range(6)]
    for thread in threads:
        thread.start()
    for number in range(total):
        work.put(number)
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

    monkeypatch.setattr("tenants.queues.broker.is_gevent_active", lambda: True)
    act.send_with_options(account="acme")
    worker = start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    assert type(worker.work_queue) is queue.PriorityQueue
    assert runs == [1]
