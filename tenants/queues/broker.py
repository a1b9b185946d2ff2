"""The tenant-queue broker: a Dramatiq `Broker` that gives every account its own serial queue on each lane.

Dramatiq's worker knows the lanes, which are few; `consume(lane)` serves all tenant queues of the lane. A message names
its account in `message.options["account"]`. What is enqueued while a message is processed inherits its account.

Invariants: a plain `enqueue` always adds a new entry; `enqueue` of the proxy that is being processed (Dramatiq's
Retries does that) reschedules its entry; `enqueue_once` adds nothing while the id is held; delayed messages wait on the
server, never in the worker's memory, so `delay_queues` stays empty.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import redis
from dramatiq import Broker, Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import Middleware, MiddlewareError

from .budget import ThreadBudget
from .claims import Claims
from .cluster import connect
from .consumer import TenantConsumer
from .enqueue import add_entries
from .entry import (
    DEFAULT_PRIORITY,
    MAX_DELAY_SECONDS,
    Entry,
    plain_message,
    rank_of_actor,
    remember_entry,
    without_eta,
)
from .errors import InvalidEntry
from .keys import Keys
from .known_lanes import KnownLanes
from .lane_state import LaneState
from .layouts import Layouts
from .leases import interrupt
from .message import LeasedMessage, current_message
from .server import ServerHealth, ServerInfo
from .settling import Settler
from .sharded import ShardedConsumer
from .tenant_queue import TenantQueues
from .worker_hooks import HookLists, WorkerHooks
from .worker_state import WorkerState

MAX_SHARDS = 64


class TenantBroker(Broker):
    """A drop-in Dramatiq broker on Redis 6.2 or newer, or Valkey.

    Parameters:
        url: of the server, or of a cluster's nodes: `redis+cluster://host:port,host:port`. Without it: `client`, or
            redis-py's connection parameters. A Sentinel's primary: `client=sentinel.master_for(...)`.
        namespace: the first part of every key's name.
        middleware: as for any Dramatiq broker; None: Dramatiq's defaults.
        shards: parts of each lane, each on a slot of its own in a cluster (experimental). Every process of a namespace
            must give the same number, and it cannot be changed while the lanes hold messages.
        lease_seconds: how long a lease lasts without being extended.
        extend_seconds: how often leases are extended.
        worker_id: shown where workers are listed; a suffix makes it unique, so it may be reused.
        other_layouts: if the namespace has keys of a release with another layout: `refuse`: every call raises
            `UnsupportedLayout`. `ignore`: work beside them, for a caller that can send all messages again.
        lane_minimum: threads of a worker process that are reserved for a lane.
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
        self._known = KnownLanes(self.server, self.keys)
        self.queues_admin = TenantQueues(self.server, self.keys, self._known, lambda: self.queues, lease_seconds)
        #: Layouts of keys that other releases have left in the namespace.
        self.layouts = Layouts(self.server, self.keys, self.queues_admin)
        if other_layouts == "refuse":
            self.server.before_scripts = self.layouts.refuse_others
        #: Called in the lease renewer's thread when a lease is lost. None: the actor is interrupted by `LeaseLost`.
        self.on_lease_lost: Callable[[LeasedMessage], None] | None = None
        #: What this process does as a worker.
        self.worker = WorkerState(
            self.server,
            ThreadBudget(lane_minimum),
            self.actors,
            name=worker_id or "worker",
            lease_seconds=lease_seconds,
            extend_seconds=extend_seconds,
            on_lease_lost=lambda message: (self.on_lease_lost or interrupt)(message),
        )
        self._claims = Claims(self.server, self.worker)
        self._settlers: dict[str, list[Settler]] = {}
        self._consumers: list[TenantConsumer | ShardedConsumer] = []
        self._hooks = HookLists(WorkerHooks(self.worker, self._stop_claiming))

    # -- Dramatiq's interface

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        for middleware, hook in self._hooks.of("before_" + signal, self.middleware):
            try:
                hook(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:
                self.logger.critical("Unexpected failure in before_%s of %r.", signal, middleware, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        for middleware, hook in self._hooks.of("after_" + signal, self.middleware):
            try:
                hook(self, *args, **kwargs)
            except Exception:
                self.logger.critical("Unexpected failure in after_%s of %r.", signal, middleware, exc_info=True)

    @property
    def client(self) -> redis.Redis:
        """A client of the same server, for the caller's own commands, as RedisBroker has one."""
        return self.server.client

    @property
    def consumer_class(self) -> type[TenantConsumer]:
        return TenantConsumer

    def declare_queue(self, queue_name: str) -> None:
        """Declares a lane. Tenant queues are not declared."""
        if queue_name not in self.queues:
            self.keys.root(queue_name)
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        return self.queues.copy()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A consumer of all tenant queues of the lane; `timeout` in ms."""
        settlers = self._settlers_of(queue_name)
        prefetch = max(1, prefetch)

        def consume_shard(shard: int) -> TenantConsumer:
            return TenantConsumer(self.server, self.worker, self._claims, settlers[shard], prefetch, timeout)

        consumer: TenantConsumer | ShardedConsumer
        if len(settlers) == 1:
            consumer = consume_shard(0)
        else:
            consumer = ShardedConsumer(self.worker, self._claims, consume_shard, len(settlers), timeout)
        self._consumers = [*(each for each in self._consumers if not each.closed), consumer]
        return consumer

    def _settlers_of(self, lane: str) -> list[Settler]:
        if lane not in self._settlers:
            settlers = []
            for shard in range(self.keys.shards):
                key = lane if self.keys.shards == 1 else f"{lane}/{shard}"
                state = LaneState(lane, shard, key, self.keys.root(lane, shard))
                settlers.append(Settler(self.server, self.worker, self._claims, state))
            self._settlers[lane] = settlers
        return self._settlers[lane]

    def enqueue(self, message: Message[Any] | MessageProxy, *, delay: int | None = None) -> Message[Any]:
        """Adds the message to the queue of its account on its lane, after `delay` ms.

        `entry_id_of` the returned message gives the entry's id, for `queues_admin.explain` and the like.

        Raises:
            QueueFull: the tenant queue has reached its `max_waiting`.
            InvalidEntry: the account cannot be one.
            dramatiq.errors.ConnectionClosed: the server cannot be reached; whether it was added is unknown.
        """
        if isinstance(message, LeasedMessage) and self._is_running(message):
            plain, delay_ms = without_eta(plain_message(message), delay)
            self.emit_before("enqueue", plain, delay)
            message.reschedule(delay_ms / 1000, plain)
        else:
            # A copy, as Dramatiq's own brokers make: middleware may change it, and the caller's stays as it is.
            plain, delay_ms = without_eta(self._with_account(plain_message(message)), delay)
            self.emit_before("enqueue", plain, delay)
            entry = self._entry_of(plain, delay_ms)
            add_entries(self.server, self.keys, self._known, [entry])
            remember_entry(plain, entry.id)
        self.emit_after("enqueue", plain, delay)
        return plain

    def _is_running(self, message: LeasedMessage) -> bool:
        """Whether this broker has claimed the message and has not settled it."""
        settlers = self._settlers.get(message.lane, [])
        return not message.settling and any(message.lane_state is each.state for each in settlers)

    def _entry_of(self, message: Message[Any], delay_ms: int) -> Entry:
        actor = self.actors.get(message.actor_name)
        rank = rank_of_actor(actor.priority) if actor is not None else DEFAULT_PRIORITY
        delay_seconds = min(delay_ms / 1000, MAX_DELAY_SECONDS)
        return Entry(message, uuid.uuid4().hex, delay_seconds=delay_seconds, rank=rank)

    def flush(self, queue_name: str) -> None:
        """Drops all messages of the lane, running ones too (their settle finds the lease lost). Settings stay."""
        self.queues_admin.flush(queue_name)

    def flush_all(self) -> None:
        """Drops all messages of all declared lanes."""
        for queue_name in self.queues:
            self.flush(queue_name)

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Waits until the lane holds no message; asks every `interval` ms. For tests.

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
        """Gives back unstarted messages, stops the lease renewer and closes the connections."""
        for consumer in self._consumers:
            consumer.close()
        self._consumers = []
        self.worker.stop_renewing()
        self.server.close()

    # -- beyond Dramatiq

    def enqueue_once(self, entry: Entry) -> bool:
        """Adds an entry and returns True; False if its id waits, is delayed or is leased in that tenant queue.

        If it is delayed, it becomes due at the earlier of both times.

        Raises: as `enqueue`. After `ConnectionClosed` the same call may be made again.
        """
        return self.enqueue_many([entry]) == 1

    def enqueue_many(self, entries: Iterable[Entry]) -> int:
        """Adds entries, each once by its id, in a few round trips. Returns how many were added.

        After an error some may have been added. All can be sent again as long as none has run: an entry that has run
        is added again.

        Raises:
            QueueFull: a queue would exceed its `max_waiting`; none of its entries was added (of each 1,000 entries all
            or none). Others as `enqueue`.
        """
        prepared: list[Entry] = []
        for entry in entries:
            message, delay_ms = without_eta(self._with_account(entry.message), None)
            if message is not entry.message:
                delay_seconds = entry.delay_seconds or min(delay_ms / 1000, MAX_DELAY_SECONDS)
                entry = replace(entry, message=message, delay_seconds=delay_seconds)
            self.emit_before("enqueue", message, None)
            prepared.append(entry)
        added = add_entries(self.server, self.keys, self._known, prepared)
        for each in prepared:
            self.emit_after("enqueue", each.message, None)
        return added

    def check_server(self) -> ServerInfo:
        """Which server answers at the address.

        Raises:
            ServerUnreachable, UnsupportedServer: one sentence that says where and what to do.
        """
        return self.server.check()

    def check_health(self) -> ServerHealth:
        """What is wrong with the server that answers: it refuses writes, or evicts keys.

        Raises:
            dramatiq.errors.ConnectionClosed: the server does not answer.
        """
        roots = [self.keys.root(lane, shard) for lane in sorted(self.queues) for shard in range(self.keys.shards)]
        # On a cluster each lane may be on a node of its own.
        return self.server.health([self.keys.generation, *(roots if self.server.clustered else [])])

    @property
    def worker_id(self) -> str:
        """The name of this process in its leases."""
        return self.worker.leases.worker

    def _stop_claiming(self) -> None:
        """The worker stops: consumers end their waits, and unstarted messages are given back."""
        for consumer in self._consumers:
            consumer.wake()
        self._claims.give_back_unstarted()

    def _with_account(self, message: Message[Any]) -> Message[Any]:
        if "account" in message.options:
            return message
        current = current_message()
        if current is None or current.account is None:
            return message
        return message.copy(options={"account": current.account})
