"""The event hub: delivers the events of jobs to all subscribers in this process.

Invariants
- One thread reads for all subscribers, and only while there are any. It polls SQL once a second, and at once after a
  notification over Redis from another process; without Redis events come up to a second later.
- A subscriber misses no event that is committed after its subscription: that begins only once the hub knows its own
  position. On PostgreSQL a lower number can be committed after a higher one, so the hub reads missing numbers again
  until their transactions have ended, also those that were missing at its start.
- Each event comes with the hub's position, from which a stream derives its own.
- A slow subscriber loses its queue, which bounds memory: `lagged` then requires it to read from SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
import redis.exceptions

from tenants.database.transactions import Database
from tenants.errors import Unavailable
from tenants.queues import node_urls
from tenants.store import events as store

from .event_positions import Position, Range, Ranges, at_most, ranges_between, without

if TYPE_CHECKING:
    from redis.client import PubSub
    from sqlalchemy import Connection, RowMapping

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
#: Notifications within this time are combined.
COALESCE_SECONDS = 0.02
#: A number that is missing for so long is given up: longer than any transaction here. PostgreSQL's snapshots usually
#: show much sooner that it was rolled back.
MISSING_SECONDS = 120.0
#: A transaction takes a number slightly before its id is visible, so its end is judged by later ids.
ID_VISIBLE_SECONDS = 1.0
#: The most ranges of missing numbers; beyond that the lowest are merged, and streams skip repeated events.
MAX_RANGES = 200
#: How far back a hub searches for missing numbers at its start.
LOOK_BACK = 10_000
#: The longest queue of a subscriber.
QUEUE_LENGTH = 1000
#: How long a new subscriber waits for the hub's position.
POSITION_SECONDS = 5.0
RECONNECT_SECONDS = 5.0
#: How soon the thread notices `close`; it waits on a socket, so this sends no request.
CLOSE_SECONDS = 0.2
CHANNEL = "onelane:events"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event: `type` is status, step, progress or log."""

    seq: int
    account: str
    job_id: str
    type: str
    data: dict[str, Any]

    @classmethod
    def of(cls, row: RowMapping) -> JobEvent:
        return cls(row["seq"], row["account"], row["job_id"], row["type"], row["data"])


def _some_node(redis_url: str, *, socket_timeout: float) -> redis.Redis:
    """A client of any node: in a cluster a message that is published on one node reaches subscribers of all."""
    url = random.choice(node_urls(redis_url))
    return redis.Redis.from_url(url, socket_timeout=socket_timeout, socket_connect_timeout=1.0)


class EventNotifier:
    """Notifies the hubs of all processes after a commit. A lost notification only delays events to the next poll.

    `notify` never blocks: a thread, started at its first call, publishes to Redis, once for all calls within
    `COALESCE_SECONDS`.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._client = _some_node(redis_url, socket_timeout=1.0)
        self._pending = threading.Event()
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        self._pending.set()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._publish_all, name="event-notifier", daemon=True)
                self._thread.start()

    def _publish_all(self) -> None:
        while not self._closing.is_set():
            self._pending.wait()
            self._pending.clear()
            pause = COALESCE_SECONDS
            try:
                self._client.publish(CHANNEL, b"")
            except (redis.exceptions.RedisError, OSError) as error:
                log.debug("cannot notify of events: %s", error)
                self._client.close()
                self._client = _some_node(self._redis_url, socket_timeout=1.0)
                pause = RECONNECT_SECONDS
            self._closing.wait(pause)

    def close(self) -> None:
        """End the thread; a notification that was not sent may be lost."""
        self._closing.set()
        self._pending.set()
        if self._thread is not None:
            self._thread.join(timeout=3.0)
        self._client.close()


class Subscription:
    """One subscriber's queue of events, on the event loop."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[JobEvent, Position]] = deque()
        self._arrived = asyncio.Event()
        #: The hub's position after the batch of the event that `next` returned last.
        self.position = Position()
        #: The queue overflowed and was emptied: the subscriber must read from SQL.
        self.lagged = False

    async def next(self, timeout_seconds: float) -> JobEvent | None:
        """The next event; None at the timeout, or when `lagged` has become true."""
        if not self._waiting and not self.lagged:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), timeout_seconds)
        if not self._waiting:
            return None
        event, self.position = self._waiting.popleft()
        return event

    def caught_up(self) -> None:
        """The subscriber has read from SQL."""
        self.lagged = False

    def _push(self, event: JobEvent, position: Position) -> None:
        if self.lagged:
            return  # the subscriber reads it from SQL
        if len(self._waiting) >= QUEUE_LENGTH:
            self._waiting.clear()
            self.lagged = True
        else:
            self._waiting.append((event, position))
        self._arrived.set()


class EventHub:
    """Subscriptions by job and by account, and the thread that reads their events."""

    def __init__(self, database: Database, redis_url: str | None = None) -> None:
        self._database = database
        self._redis_url = redis_url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._by_job: dict[str, set[Subscription]] = {}
        self._by_account: dict[str, set[Subscription]] = {}
        #: Up to where events were delivered; used only on the event loop.
        self.position = Position()
        #: Guards `_count` and `_has_position`: the thread may pause only without subscribers, and has no position then.
        self._state = threading.Lock()
        self._count = 0
        self._has_position = False
        #: The last position that was given to the event loop; used only on the thread.
        self._handed_over = Position()
        #: On the event loop: set once the thread has a position.
        self._position_found = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._closing = threading.Event()

    # --- on the event loop ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def of_job(self, job_id: str) -> AsyncIterator[Subscription]:
        """A job's events, from what is committed after entering.

        Raises:
            Unavailable: the hub has no position, because the database is unreachable.
        """
        async with self._subscribed(self._by_job, job_id) as subscription:
            yield subscription

    @asynccontextmanager
    async def of_account(self, account: str) -> AsyncIterator[Subscription]:
        """As `of_job`, for all jobs of an account."""
        async with self._subscribed(self._by_account, account) as subscription:
            yield subscription

    @property
    def subscribers(self) -> int:
        return self._count

    @asynccontextmanager
    async def _subscribed(self, group: dict[str, set[Subscription]], key: str) -> AsyncIterator[Subscription]:
        subscription = Subscription()
        self._start()
        group.setdefault(key, set()).add(subscription)
        with self._state:
            self._count += 1
            has_position = self._has_position
            if not has_position:
                self._position_found.clear()
            self._wanted.set()
        try:
            if not has_position:
                try:
                    await asyncio.wait_for(self._position_found.wait(), POSITION_SECONDS)
                except TimeoutError:
                    raise Unavailable("events cannot be read: the database does not answer") from None
            yield subscription
        finally:
            with self._state:
                self._count -= 1
                if not self._count:
                    self._wanted.clear()
            members = group[key]
            members.discard(subscription)
            if not members:
                del group[key]

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._count:
                raise RuntimeError("one event hub serves one event loop")
            self._loop, self._position_found = loop, asyncio.Event()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="event-hub", daemon=True)
            self._thread.start()

    def _deliver(self, events: Sequence[JobEvent], position: Position) -> None:
        self.position = position
        for event in events:
            for subscription in self._by_job.get(event.job_id, ()):
                subscription._push(event, position)
            for subscription in self._by_account.get(event.account, ()):
                subscription._push(event, position)

    def close(self) -> None:
        """End the thread, and wait for it."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=POLL_SECONDS + 4.0)

    # --- on the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        listener = _Listener(self._redis_url)
        reader: _Reader | None = None
        try:
            while not self._closing.is_set():
                if self._may_pause():
                    reader = None
                    listener.close()
                    self._wanted.wait()
                    continue
                try:
                    reader = reader or _Reader(self._database)
                    self._hand_over(reader.read(), reader.position)
                except Exception as error:
                    # Whatever failed, the next poll may succeed; subscribers would never get events without the thread.
                    log.warning("events cannot be read now: %s", error)
                    self._closing.wait(POLL_SECONDS)
                    continue
                listener.wait(POLL_SECONDS, self._closing)
        finally:
            listener.close()

    def _may_pause(self) -> bool:
        with self._state:
            if self._count or self._closing.is_set():
                return False
            self._has_position = False
            return True

    def _hand_over(self, events: list[JobEvent], position: Position) -> None:
        with self._state:
            is_first, self._has_position = not self._has_position, True
        loop = self._loop
        if loop is None or not (events or is_first or position != self._handed_over):
            return
        self._handed_over = position

        def on_loop() -> None:
            self._deliver(events, position)
            self._position_found.set()

        with contextlib.suppress(RuntimeError):  # the loop was closed, with all subscribers
            loop.call_soon_threadsafe(on_loop)


@dataclass(slots=True)
class _Missing:
    """Skipped numbers: their transactions are in flight, or were rolled back."""

    numbers: Range
    #: Monotonic seconds.
    noticed_at: float
    #: Once all transactions with lower ids have ended, the numbers are given up.
    ends_with: int | None = None


class _Reader:
    """Reads new events, and those that were missing and are committed now."""

    def __init__(self, database: Database) -> None:
        """Begin after the last committed event; missing numbers below are read later."""
        self._database = database
        self._missing: list[_Missing] = []

        def begin(connection: Connection) -> tuple[int, Ranges]:
            newest = store.newest(connection)
            low = max(1, newest - LOOK_BACK + 1)
            return newest, ranges_between(low, newest, store.numbers(connection, low, newest))

        self._last, missing = database.read(begin)
        self._notice(missing)

    @property
    def position(self) -> Position:
        return Position(self._last, at_most(self._ranges(), MAX_RANGES))

    def read(self) -> list[JobEvent]:
        """Late events first, then new ones, each in the order of their numbers."""
        asked_for = self._ranges()

        def look(connection: Connection) -> tuple[store.Horizon | None, list[JobEvent], list[JobEvent]]:
            # The horizon first: transactions that had ended by then are visible to the following statements.
            horizon = store.horizon(connection) if asked_for else None
            late = [JobEvent.of(row) for row in store.within(connection, asked_for)]
            return horizon, late, [JobEvent.of(row) for row in store.after(connection, self._last)]

        horizon, late, found = self._database.read(look)
        self._resolve(horizon, {event.seq for event in late})
        if found:
            newest = found[-1].seq
            self._notice(ranges_between(self._last + 1, newest, (event.seq for event in found)))
            self._last = newest
        return late + found

    def _ranges(self) -> Ranges:
        return tuple(each.numbers for each in self._missing)

    def _notice(self, missing: Ranges) -> None:
        now = time.monotonic()
        self._missing.extend(_Missing(each, now) for each in missing)
        if len(self._missing) > MAX_RANGES:
            merged = at_most(self._ranges(), MAX_RANGES)
            self._missing = [_Missing(each, now) for each in merged]

    def _resolve(self, horizon: store.Horizon | None, arrived: set[int]) -> None:
        """Remove numbers that were read, and those whose transactions were rolled back."""
        now, left = time.monotonic(), list[_Missing]()
        for each in self._missing:
            age = now - each.noticed_at
            ended = horizon and each.ends_with is not None and each.ends_with <= horizon.all_ended_below
            if ended or age > MISSING_SECONDS:
                continue
            if horizon and each.ends_with is None and age > ID_VISIBLE_SECONDS:
                each.ends_with = horizon.next_id
            for numbers in without((each.numbers,), arrived):
                left.append(_Missing(numbers, each.noticed_at, each.ends_with))
        self._missing = left


class _Listener:
    """Waits for a notification over Redis, or only for the time where Redis is unreachable."""

    def __init__(self, redis_url: str | None) -> None:
        self._redis_url = redis_url
        self._pubsub: PubSub | None = None
        self._client: redis.Redis | None = None
        self._retry_at = 0.0

    def wait(self, seconds: float, closing: threading.Event) -> None:
        """Return at a notification, and after `seconds` at the latest."""
        pubsub = self._connected()
        if pubsub is None:
            closing.wait(seconds)
            return
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0 and not closing.is_set():
                message = pubsub.get_message(ignore_subscribe_messages=True, timeout=min(left, CLOSE_SECONDS))
                if message is not None:
                    closing.wait(COALESCE_SECONDS)
                    while pubsub.get_message(ignore_subscribe_messages=True, timeout=0) is not None:
                        pass
                    return
        except (redis.exceptions.RedisError, OSError) as error:
            log.debug("no notifications of events from Redis: %s", error)
            self.close()
            self._retry_at = time.monotonic() + RECONNECT_SECONDS
            closing.wait(max(0.0, until - time.monotonic()))

    def _connected(self) -> PubSub | None:
        if self._pubsub is None and self._redis_url is not None and time.monotonic() >= self._retry_at:
            try:
                self._client = _some_node(self._redis_url, socket_timeout=2.0)
                self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
                self._pubsub.subscribe(CHANNEL)
            except (redis.exceptions.RedisError, OSError) as error:
                log.debug("no notifications of events from Redis: %s", error)
                self.close()
                self._retry_at = time.monotonic() + RECONNECT_SECONDS
        return self._pubsub

    def close(self) -> None:
        for each in (self._pubsub, self._client):
            if each is not None:
                with contextlib.suppress(redis.exceptions.RedisError, OSError):
                    each.close()
        self._pubsub = self._client = None
