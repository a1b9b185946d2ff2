"""This process as a Dramatiq worker: its threads, their budget, and the lease renewer.

Invariants: `stopping` is set from the start of a worker's shutdown to its end, and nothing is claimed meanwhile; a fork
has its own lease renewer, under its own worker id.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from queue import PriorityQueue
from typing import Any

from dramatiq import Actor, Worker
from dramatiq.common import iter_queue
from dramatiq.threading import is_gevent_active
from dramatiq.worker import ConsumerThread

from . import forks
from .budget import ThreadBudget
from .lane_state import LaneState
from .leases import LeaseRenewer, lease_holder
from .message import LeasedMessage
from .server import Server
from .work_queue import WorkItem, WorkQueue


class WorkerState:
    """Threads, budget and leases of one process."""

    def __init__(
        self,
        server: Server,
        budget: ThreadBudget,
        actors: Mapping[str, Actor[Any, Any]],
        *,
        name: str,
        lease_seconds: float,
        extend_seconds: float,
        on_lease_lost: Callable[[LeasedMessage], None],
    ) -> None:
        self.budget = budget
        self.stopping = False
        self._server = server
        self._actors = actors
        self._name = name
        self._lease_seconds = lease_seconds
        self._extend_seconds = extend_seconds
        self._on_lease_lost = on_lease_lost
        self._worker: Worker | None = None
        self._consumer_threads: dict[str, ConsumerThread] = {}
        self._leases: LeaseRenewer | None = None
        self._leases_fork = 0
        self._mutex = threading.Lock()

    @property
    def leases(self) -> LeaseRenewer:
        """The lease renewer of this process."""
        if self._leases is None or self._leases_fork != forks.generation():
            with self._mutex:
                if self._leases is None or self._leases_fork != forks.generation():
                    self._leases = LeaseRenewer(
                        self._server,
                        f"{lease_holder(self._name)}.{uuid.uuid4().hex[:12]}",
                        self._lease_seconds,
                        self._extend_seconds,
                        self._on_lease_lost,
                    )
                    self._leases_fork = forks.generation()
        return self._leases

    def stop_renewing(self) -> None:
        """Stops the lease renewer, if there is one."""
        if self._leases is not None:
            self._leases.stop()

    def begin(self, worker: Worker) -> None:
        """A worker boots: all of its threads are free."""
        self._worker = worker
        self.stopping = False
        self._consumer_threads.clear()
        self.budget.open(worker.worker_threads)
        if type(worker.work_queue) is PriorityQueue and not is_gevent_active():  # type: ignore[no-untyped-call]
            worker.work_queue = WorkQueue()  # Dramatiq starts the worker's threads after this

    def add_consumer_thread(self, thread: ConsumerThread) -> None:
        """Dramatiq has started the consumer thread of a lane."""
        self._consumer_threads[thread.queue_name] = thread

    def end(self) -> None:
        """The worker has stopped."""
        self._worker = None
        self._consumer_threads.clear()
        self.stopping = False
        self.stop_renewing()
        self._leases = None

    def is_paused(self, lane: str) -> bool:
        """Whether Dramatiq has paused the lane's consumer, or all worker threads, so that none is free."""
        thread = self._consumer_threads.get(lane)
        if thread is not None and thread.paused:
            return True
        workers = self._worker.workers if self._worker is not None else []
        return bool(workers) and all(each.paused for each in workers)

    def may_chain(self, state: LaneState) -> bool:
        """Whether a settle of the lane should also claim the lane's next messages."""
        thread = self._consumer_threads.get(state.lane)
        return (
            thread is not None
            and not self.stopping
            and not thread.paused
            and thread.running
            and self.budget.may_chain(state.key)
        )

    def queue_messages(self, lane: str, messages: list[LeasedMessage]) -> None:
        """Puts messages that a settle has claimed on the worker's queue."""
        thread = self._consumer_threads[lane]
        # Under gevent the worker has kept Dramatiq's queue.
        work_queue = thread.work_queue if isinstance(thread.work_queue, WorkQueue) else None
        items = []
        for message in messages:
            actor = self._actors.get(message.actor_name)
            if work_queue is None or actor is None:
                thread.handle_message(message)  # it buries a message without an actor
            else:
                items.append(WorkItem(actor.priority, message))
        if work_queue is not None:
            work_queue.put_all(items)

    def take_unstarted(self) -> list[LeasedMessage]:
        """Empties the worker's queue."""
        if self._worker is None:
            return []
        messages = []
        for item in iter_queue(self._worker.work_queue):  # type: ignore[no-untyped-call]
            messages.append(item.message)
            self._worker.work_queue.task_done()
        return messages
