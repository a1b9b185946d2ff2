"""The tenant-queue broker: a Dramatiq `Broker` that gives every account its own serial queue on each lane.

Dramatiq's worker sees the lanes, which are few; `consume(lane)` serves all tenant queues of the lane. The account
rides in `message.options["account"]`, and what is enqueued while a message is processed inherits its account.

Invariants: a plain `enqueue` always adds a new entry; `enqueue` of the very proxy that is being processed (what
Dramatiq's Retries does) reschedules that entry; `enqueue_once` does nothing while the id is held; no message waits in
the worker's memory for its time, and `delay_queues` stays empty.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from queue import PriorityQueue
from typing import Any, Literal

import redis
from dramatiq import Broker, Message, Worker
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.common import iter_queue
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import Middleware, MiddlewareError
from dramatiq.threading import is_gevent_active
from dramatiq.worker import ConsumerThread

from . import forks
from .additions import Addition, add, plain_message, without_eta
from .budget import ThreadBudget
from .cluster import connect
from .consumer import LaneShard, TenantConsumer
from .entry import MAX_DELAY_SECONDS, Entry, remember_entry
from .errors import InvalidEntry
from .keys import Keys
from .known_lanes import KnownLanes
from .layouts import Layouts
from .leases import LeaseKeeper, interrupt, lease_holder
from .message import LeasedMessage, current_message
from .server import ServerHealth, ServerInfo
from .sharded import ShardedConsumer
from .tenant_queue import TenantQueues
from .work_queue import WorkItem, WorkQueue
from .worker_hooks import WorkerHooks

MAX_SHARDS = 64


class TenantBroker(Broker):
    """A drop-in Dramatiq broker on Redis 6.2 or newer, or Valkey.

    Parameters:
        url: of the server, or of a cluster's nodes: `redis+cluster://host:port,host:port`. Without it: `client`, or
            redis-py's connection parameters. A Sentinel's primary: `client=sentinel.master_for(...)`.
        namespace: begins the name of every key.
        middleware: as for any Dramatiq broker; None: Dramatiq's defaults.
        shards: parts of each lane, each on a slot of its own in a cluster (experimental). Every process of a namespace
            must give the same number, and it cannot be changed while the lanes hold messages.
        lease_seconds: how long a message is held without a sign of life.
        extend_seconds: how often that sign is given.
        worker_id: shown where workers are listed; made unique by a suffix, so it may be reused.
        other_layouts: what to do where the namespace has keys of a release with another layout. `refuse`: every call
            raises `UnsupportedLayout`. `ignore`: work beside them; for whoever can send all messages again.
        lane_minimum: threads of a worker process that are kept for a lane, whatever others have waiting.
        connection_parameters: redis-py's.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        client: redis.Redis | None = None,
        namespace: str = "onelane",
        middleware: list[Middleware] | None = None,
        shards: int = 1,
        lease_seconds: float = 15.0,
        extend_seconds: float = 5.0,
        worker_id: str | None = None,
        lane_minimum: Mapping[str, int] | None = None,
        other_layouts: Literal["refuse", "ignore"] = "refuse",
        **connection_parameters: Any,
    ) -> None:
        super().__init__(middleware=middleware)
        if not 1 <= shards <= MAX_SHARDS:
            raise InvalidEntry(f"shards: {shards}; 1 to {MAX_SHARDS} are allowed")
        self.queues: set[str] = set()
        self.keys = Keys(namespace, shards)
        self.server = connect(url, client, connection_parameters)
        self.budget = ThreadBudget(lane_minimum)
        self._known = KnownLanes(self.server, self.keys)
        self.queues_admin = TenantQueues(self.server, self.keys, self._known, lambda: self.queues, lease_seconds)
        #: Layouts of keys that other releases have left in the namespace.
        self.layouts = Layouts(self.server, self.keys, self.queues_admin)
        if other_layouts == "refuse":
            self.server.before_scripts = self.layouts.refuse_others
        #: Called from the lease thread, at once when a lease is lost. None: the actor is interrupted by `LeaseLost`.
        self.on_lease_lost: Callable[[LeasedMessage], None] | None = None
        self.stopping = False
        self._lease_seconds = lease_seconds
        self._extend_seconds = extend_seconds
        self._worker_name = worker_id or "worker"
        self._shards: dict[str, list[LaneShard]] = {}
        self._threads: dict[str, ConsumerThread] = {}
        self._worker: Worker | None = None
        self._consumers: list[TenantConsumer | ShardedConsumer] = []
        self._keeper: LeaseKeeper | None = None
        self._keeper_fork = 0
        self._keeper_mutex = threading.Lock()
        self._hooks_on_worker = WorkerHooks()
        self._heard_by: list[Middleware] = []
        self._hooks_of: dict[str, list[tuple[Any, Callable[..., None]]]] = {}

    # -- Dramatiq's interface

    # The broker's own ear is not in `middleware`, because that list is the user's: `middleware=[]` stays empty, and
    # `add_middleware(before=...)` finds the places it expects. It hears `before_` first and `after_` last, so what
    # other middleware enqueues after a message is still within it.

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        for middleware, hook in self._hooks("before_" + signal):
            try:
                hook(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:
                self.logger.critical("Unexpected failure in before_%s of %r.", signal, middleware, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        for middleware, hook in self._hooks("after_" + signal):
            try:
                hook(self, *args, **kwargs)
            except Exception:
                self.logger.critical("Unexpected failure in after_%s of %r.", signal, middleware, exc_info=True)

    def _hooks(self, name: str) -> list[tuple[Any, Callable[..., None]]]:
        """Who really does something at a signal, in the order in which they hear it.

        Dramatiq calls all, most of whose hooks are empty, four times a message; that took a tenth of a message's time.
        """
        if self._heard_by != self.middleware:
            self._heard_by, self._hooks_of = list(self.middleware), {}
        hooks = self._hooks_of.get(name)
        if hooks is None:
            empty = getattr(Middleware, name, None)
            hooks = [
                (each, hook)
                for each in (self._hooks_on_worker, *self.middleware)
                if (hook := getattr(each, name, None)) is not None and getattr(hook, "__func__", None) is not empty
            ]
            if name.startswith("after_"):
                hooks.reverse()
            self._hooks_of[name] = hooks
        return hooks

    @property
    def client(self) -> redis.Redis:
        """A client of the same server, for the caller's own commands; RedisBroker has one too."""
        return self.server.client

    @property
    def consumer_class(self) -> type[TenantConsumer]:
        return TenantConsumer

    def declare_queue(self, queue_name: str) -> None:
        """Declares a lane; tenant queues need no declaring."""
        if queue_name not in self.queues:
            self.keys.root(queue_name)
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        return self.queues.copy()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A consumer of all tenant queues of the lane; `timeout` in ms."""
        shards = self._shards_of(queue_name)
        consumer: TenantConsumer | ShardedConsumer
        if len(shards) == 1:
            consumer = TenantConsumer(self, shards[0], max(1, prefetch), timeout)
        else:
            consumer = ShardedConsumer(self, shards, max(1, prefetch), timeout)
        self._consumers = [each for each in self._consumers if not each.closed]
        self._consumers.append(consumer)
        return consumer

    def enqueue(self, message: Message[Any] | MessageProxy, *, delay: int | None = None) -> Message[Any]:
        """Adds the message to the queue of its account on its lane, after `delay` ms.

        `entry_id_of` what comes back names the entry, for `queues_admin.explain` and its like.

        Raises:
            QueueFull: the tenant queue has reached its `max_waiting`.
            InvalidEntry: the account cannot be one.
            dramatiq.errors.ConnectionClosed: the server cannot be reached; whether it was added is unknown.
        """
        if isinstance(message, LeasedMessage) and message.consumer.broker is self and not message.settling:
            return self._reschedule(message, delay)
        # A copy, as with Dramatiq's own brokers: what middleware does to it is for this run alone.
        plain, delay_ms = without_eta(self._with_account(plain_message(message)), delay)
        self.emit_before("enqueue", plain, delay)
        addition = Addition.of_message(self.actors, plain, delay_ms)
        add(self.server, self.keys, self._known, [addition])
        remember_entry(plain, addition.entry_id)
        self.emit_after("enqueue", plain, delay)
        return plain

    def _reschedule(self, message: LeasedMessage, delay: int | None) -> Message[Any]:
        plain, delay_ms = without_eta(plain_message(message), delay)
        self.emit_before("enqueue", plain, delay)
        message.reschedule(delay_ms / 1000, plain)
        self.emit_after("enqueue", plain, delay)
        return plain

    def flush(self, queue_name: str) -> None:
        """Drops all messages of the lane, running ones too (their settle finds the lease lost). Settings stay."""
        self.queues_admin.flush(queue_name)

    def flush_all(self) -> None:
        """Drops all messages of all declared lanes."""
        for queue_name in self.queues:
            self.flush(queue_name)

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Waits until the lane holds no message; looks every `interval` ms. For tests.

        Raises:
            QueueJoinTimeout: `timeout` ms have passed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while True:
            totals = self.queues_admin.totals(queue_name)
            if totals.waiting + totals.delayed + totals.active == 0:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)  # type: ignore[no-untyped-call]
            time.sleep(interval / 1000)

    def close(self) -> None:
        """Gives back what consumers hold unstarted, ends the lease thread and closes the connections."""
        for consumer in self._consumers:
            consumer.close()
        self._consumers = []
        if self._keeper is not None:
            self._keeper.stop()
        self.server.close()

    # -- beyond Dramatiq

    def enqueue_once(self, entry: Entry) -> bool:
        """Adds an entry unless its id waits, is delayed or is leased in that tenant queue: then False.

        Of one that is delayed the earlier time counts: it comes due when this one would.

        Raises: as `enqueue`. After `ConnectionClosed` the same call may be made again.
        """
        return self.enqueue_many([entry]) == 1

    def enqueue_many(self, entries: Iterable[Entry]) -> int:
        """Adds entries, each once by its id, in a few round trips. Returns how many were really added.

        After an error some may have been added. To send all again is safe as long as they wait; one that has run in
        the meantime is added anew.

        Raises:
            QueueFull: a queue would exceed its `max_waiting`; of what is for it nothing was added (of each 1,000
            entries all or nothing). Others as `enqueue`.
        """
        prepared = []
        for entry in entries:
            message, delay_ms = without_eta(self._with_account(entry.message), None)
            if delay_ms and not entry.delay_seconds:
                entry = replace(entry, delay_seconds=min(delay_ms / 1000, MAX_DELAY_SECONDS))
            self.emit_before("enqueue", message, None)
            prepared.append(Addition.of_entry(message, entry))
        added = add(self.server, self.keys, self._known, prepared)
        for each in prepared:
            self.emit_after("enqueue", each.message, None)
        return added

    def check_server(self) -> ServerInfo:
        """What answers at the address.

        Raises:
            ServerUnreachable, UnsupportedServer: one sentence that says where and what to do.
        """
        return self.server.check()

    def check_health(self) -> ServerHealth:
        """What is wrong with the server that answers: it refuses writes, or evicts keys.

        Raises:
            dramatiq.errors.ConnectionClosed: nobody answers.
        """
        roots = [self.keys.root(lane, shard) for lane in sorted(self.queues) for shard in range(self.keys.shards)]
        # On a cluster each lane may be on a node of its own.
        return self.server.health([self.keys.generation, *(roots if self.server.clustered else [])])

    # -- for consumers and settling threads

    @property
    def keeper(self) -> LeaseKeeper:
        """The leases of this process; a fork has its own, under its own worker id."""
        if self._keeper is None or self._keeper_fork != forks.generation():
            with self._keeper_mutex:
                if self._keeper is None or self._keeper_fork != forks.generation():
                    self._keeper = self._new_keeper()
                    self._keeper_fork = forks.generation()
        return self._keeper

    @property
    def worker_id(self) -> str:
        """Under which the server knows this process."""
        return self.keeper.worker

    def may_chain(self, shard: LaneShard) -> bool:
        """Whether settles of the lane (of its shard) shall bring its next messages."""
        thread = self._threads.get(shard.lane)
        return (
            thread is not None
            and not self.stopping
            and not thread.paused
            and thread.running
            and self.budget.may_chain(shard.key)
        )

    def hand_on(self, consumer: TenantConsumer, messages: list[LeasedMessage]) -> None:
        """Puts chained messages on the worker's queue."""
        if self.stopping:
            consumer.give_back(messages)
            return
        thread = self._threads[consumer.shard.lane]
        # Under gevent the worker has kept its own.
        ours = thread.work_queue if isinstance(thread.work_queue, WorkQueue) else None
        items = []
        for message in messages:
            actor = self.actors.get(message.actor_name)
            if ours is None or actor is None:
                thread.handle_message(message)  # which buries it when there is no such actor
            else:
                items.append(WorkItem(actor.priority, message))
        if ours is not None:
            ours.put_all(items)

    def is_paused(self, lane: str) -> bool:
        """Whether Dramatiq's worker has paused the lane's consumer, or all of its threads: then none is free."""
        thread = self._threads.get(lane)
        if thread is not None and thread.paused:
            return True
        workers = self._worker.workers if self._worker is not None else []
        return bool(workers) and all(each.paused for each in workers)

    def begin_work(self, worker: Worker) -> None:
        """A worker boots: all of its threads are free."""
        self._worker = worker
        self.stopping = False
        self._threads.clear()
        self.budget.open(worker.worker_threads)
        if type(worker.work_queue) is PriorityQueue and not is_gevent_active():  # type: ignore[no-untyped-call]
            worker.work_queue = WorkQueue()  # its threads are started after this

    def add_thread(self, thread: ConsumerThread) -> None:
        """Dramatiq has started a lane's consumer thread."""
        self._threads[thread.queue_name] = thread

    def begin_stop(self) -> None:
        """The worker stops: nothing is claimed any more, and what has not started goes back at once."""
        self.stopping = True
        for consumer in self._consumers:
            consumer.wake()
        self.give_back_unstarted()

    def give_back_unstarted(self) -> None:
        """Gives back what stands on the worker's queue."""
        if self._worker is None:
            return
        by_consumer: dict[TenantConsumer, list[LeasedMessage]] = {}
        for item in iter_queue(self._worker.work_queue):  # type: ignore[no-untyped-call]
            by_consumer.setdefault(item.message.consumer, []).append(item.message)
            self._worker.work_queue.task_done()
        for consumer, messages in by_consumer.items():
            consumer.give_back(messages)

    def end_work(self) -> None:
        """The worker has stopped."""
        self._worker = None
        self._threads.clear()
        self.stopping = False
        if self._keeper is not None:
            self._keeper.stop()
        self._keeper = None

    def _new_keeper(self) -> LeaseKeeper:
        return LeaseKeeper(
            self.server,
            f"{lease_holder(self._worker_name)}.{uuid.uuid4().hex[:12]}",
            self._lease_seconds,
            self._extend_seconds,
            self._tell_lost,
        )

    def _tell_lost(self, message: LeasedMessage) -> None:
        if self.on_lease_lost is not None:
            self.on_lease_lost(message)
            return
        # Once it is settled its thread may be on its way to the server for others, and must not be interrupted there.
        with message.ending:
            if not message.settling:
                interrupt(message)

    def _shards_of(self, lane: str) -> list[LaneShard]:
        if lane not in self._shards:
            numbers = range(self.keys.shards)
            self._shards[lane] = [LaneShard(self, lane, number, self.keys.root(lane, number)) for number in numbers]
        return self._shards[lane]

    def _with_account(self, message: Message[Any]) -> Message[Any]:
        if "account" in message.options:
            return message
        current = current_message()
        if current is None or current.account is None:
            return message
        return message.copy(options={"account": current.account})
