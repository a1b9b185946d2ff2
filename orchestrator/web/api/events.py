"""Server-sent events of a job and of an account, in order and resumable.

Invariants
- No event is lost: a stream subscribes to the hub first, then reads the stored events from SQL, then sends new ones.
  An event that comes by both is sent once.
- An event's id is the stream's position after it: the highest number so far, and the lower ones that were still
  missing (`event_positions`). A reader that resumes with it gets exactly the events that it has not received, also
  where lower numbers were committed after higher ones. A plain number, as earlier versions sent it, has no missing
  ones: then the events committed before the request count as received.
- A reader that is too slow gets its events from SQL again, from the last one that was sent; the process keeps one
  queue of bounded length for it.
- A waiting stream holds no thread and no database connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from sqlalchemy import Connection
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tenants.store import events as store
from tenants.store.jobs.lists import JobFilter
from tenants.store.jobs.read import UNFINISHED

from ...control.event_positions import Position, Ranges, contains, without
from ...control.events import JobEvent, Subscription
from ...control.jobs import is_finished
from ...json_text import to_json
from ..http.auth import Access
from ..http.routing import Call, Route
from ..http.service import Service
from .models.jobs import JobEventsQuery

#: How often a comment is sent, so that proxies and clients know that the stream is open.
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": here\n\n"
#: How many numbers of sent events a stream remembers, to recognise duplicates.
REMEMBERED = 2000
PAGE = 500
#: Unfinished jobs that an account's stream begins with.
SNAPSHOT_JOBS = 100

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


def frame(name: str, data: Any, position: Position) -> bytes:
    """One event on the wire. JSON has no line breaks, so it fits one `data` line."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(position).encode(), name.encode(), to_json(data))


class _Stream(ABC):
    """Base of both kinds of stream: the position, and the numbers of sent events."""

    def __init__(self, service: Service, events: Subscription, last: Position | None, had: Sequence[int]) -> None:
        """Resume a reader that was at `last` and has received the numbers `had`, newest first; None: start anew."""
        self.service = service
        self.events = events
        self.resumes = last is not None
        self.position = last or Position()
        self._sent: deque[int] = deque(maxlen=REMEMBERED)
        self._known: set[int] = set()
        self.pass_over(had)

    def pass_over(self, newest_first: Sequence[int]) -> None:
        """Mark events as received: they are never sent."""
        for seq in reversed(newest_first):
            self._is_new(seq)

    def begin_at(self, newest: int, hub: Position) -> None:
        """Start after the events up to `newest`, which were read when the hub was at `hub` or later."""
        self.position = Position(newest, self._unseen(newest, hub))

    def advance(self, event: JobEvent, hub: Position) -> bool:
        """Move the position past an event; False if the reader has it.

        `hub` is the hub's position before the event was read. Events come in the order of the hub or of SQL, the ones
        that were missing first.
        """
        if not self._is_new(event.seq):
            return False
        if event.seq > self.position.last:
            self.position = Position(event.seq, self._unseen(event.seq, hub))
        else:
            self.position = Position(self.position.last, without(self.position.missing, (event.seq,)))
        return True

    def _unseen(self, number: int, hub: Position) -> Ranges:
        missing = hub.missing_up_to(number)
        return without(missing, self._known) if missing else missing

    def _is_new(self, seq: int) -> bool:
        """False for a number that was sent; remembers it."""
        if seq in self._known:
            return False
        if len(self._sent) == REMEMBERED:
            self._known.discard(self._sent[0])
        self._sent.append(seq)
        self._known.add(seq)
        return True

    async def stored(self) -> AsyncIterator[JobEvent]:
        """The stored events that the reader has not received."""
        while True:
            hub = self.service.events.position
            rows = await self.service.in_thread(self._read)
            for row in rows:
                event = JobEvent.of(row)
                if self.advance(event, hub):
                    yield event
            if len(rows) < PAGE:
                return

    async def all(self) -> AsyncIterator[JobEvent | None]:
        """The stored events, then new ones; None when a heartbeat is due."""
        async for event in self.stored():
            yield event
        while True:
            arrived = await self.events.next(HEARTBEAT_SECONDS)
            if self.events.lagged:
                self.events.caught_up()
                async for event in self.stored():
                    yield event
            elif arrived is None:
                yield None
            elif self.advance(arrived, self.events.position):
                yield arrived

    @abstractmethod
    def _read(self) -> Sequence[Any]:
        """The next page of events after the position, oldest first."""


class _JobStream(_Stream):
    def __init__(
        self,
        service: Service,
        events: Subscription,
        job: dict[str, Any],
        last: Position | None,
        had: Sequence[int],
        *,
        follow: bool,
    ) -> None:
        super().__init__(service, events, last, had)
        self.job = job
        self.follow = follow

    def _read(self) -> Sequence[Any]:
        account, job_id = self.job["account"], self.job["id"]
        return self.service.database.read(
            lambda connection: store.of_job(
                connection, account, job_id, self.position.last, self.position.missing, limit=PAGE
            )
        )

    async def frames(self) -> AsyncIterator[bytes]:
        if not self.resumes:
            hub = self.service.events.position
            await self.service.in_thread(lambda: self._take_snapshot(hub))
            yield frame("snapshot", self.job, self.position)
        ended = is_finished(self.job["status"])
        if ended or not self.follow:
            async for event in self.stored():
                yield frame(event.type, event.data, self.position)
            if not ended:
                return
        else:
            async for coming in self.all():
                if coming is None:
                    yield HEARTBEAT
                    continue
                yield frame(coming.type, coming.data, self.position)
                if coming.type == "status" and is_finished(coming.data["status"]):
                    break
            async for event in self.stored():  # recorded in the same transaction as the end
                yield frame(event.type, event.data, self.position)
        yield frame("end", await self.service.in_thread(self._whole), self.position)

    def _take_snapshot(self, hub: Position) -> None:
        """Read the events first, then the job: events in between are in the snapshot and are sent as well."""
        account, job_id = self.job["account"], self.job["id"]
        had = self.service.database.read(lambda c: store.newest_of_job(c, account, job_id, limit=REMEMBERED))
        self.pass_over(had)
        self.begin_at(had[0] if had else 0, hub)
        self.job = self._whole()

    def _whole(self) -> dict[str, Any]:
        return self.service.jobs.get(self.job["id"], None)


class _AccountStream(_Stream):
    def __init__(
        self, service: Service, events: Subscription, account: str, last: Position | None, had: Sequence[int]
    ) -> None:
        super().__init__(service, events, last, had)
        self.account = account

    def _read(self) -> Sequence[Any]:
        return self.service.database.read(
            lambda connection: store.of_account(
                connection, self.account, self.position.last, self.position.missing, limit=PAGE
            )
        )

    async def frames(self) -> AsyncIterator[bytes]:
        if not self.resumes:
            hub = self.service.events.position
            await self.service.in_thread(lambda: self._take_place(hub))
            for job in await self.service.in_thread(self._unfinished):
                yield frame("snapshot", {**job, "job": job["id"]}, self.position)
        async for coming in self.all():
            if coming is None:
                yield HEARTBEAT
            else:
                yield frame(coming.type, {"job": coming.job_id, **coming.data}, self.position)

    def _take_place(self, hub: Position) -> None:
        """Start a new stream after all stored events, which the snapshots include."""

        def read(connection: Connection) -> tuple[int, Sequence[int]]:
            newest = store.newest(connection)
            return newest, store.newest_of_account(connection, self.account, until=newest, limit=REMEMBERED)

        newest, had = self.service.database.read(read)
        self.pass_over(had)
        self.begin_at(newest, hub)

    def _unfinished(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for status in UNFINISHED:
            items, _ = self.service.jobs.list(JobFilter(account=self.account, status=status), limit=SNAPSHOT_JOBS)
            found.extend(items)
        return sorted(found, key=lambda job: str(job["id"]))[-SNAPSHOT_JOBS:]


class _EventResponse(StreamingResponse):
    """A stream that ends its subscription when it ends, however that happens."""

    def __init__(self, frames: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def job_events(call: Call[Any, JobEventsQuery]) -> Response:
    service, job_id = call.service, call.params["id"]
    job = await service.in_thread(lambda: service.jobs.get(job_id, call.owner))
    if call.request.method == "HEAD":
        return Response(headers=_HEADERS)
    last, had = await _place(
        call, lambda c, until: store.newest_of_job(c, job["account"], job_id, until=until, limit=REMEMBERED)
    )
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(service.events.of_job(job_id))
        # Read again, because the job may have ended before the subscription.
        job = await service.in_thread(lambda: service.jobs.get(job_id, call.owner))
        stream = _JobStream(service, events, job, last, had, follow=call.query.follow)
        return _EventResponse(stream.frames(), stack.pop_all())


async def account_events(call: Call[Any, Any]) -> Response:
    service, account = call.service, call.account
    if call.request.method == "HEAD":
        return Response(headers=_HEADERS)
    last, had = await _place(call, lambda c, until: store.newest_of_account(c, account, until=until, limit=REMEMBERED))
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(service.events.of_account(account))
        stream = _AccountStream(service, events, account, last, had)
        return _EventResponse(stream.frames(), stack.pop_all())


async def _place(
    call: Call[Any, Any], newest: Callable[[Connection, int], Sequence[int]]
) -> tuple[Position | None, Sequence[int]]:
    """The reader's position, and the numbers that it has received, newest first; call it before subscribing.

    An id that cannot be parsed starts anew.
    """
    position = Position.parse(call.request.headers.get("last-event-id", ""))
    if position is None:
        return None, ()
    committed = await call.service.in_thread(lambda: call.service.database.read(lambda c: newest(c, position.last)))
    return position, [seq for seq in committed if not contains(position.missing, seq)]


_DESCRIPTION = (
    "Each event has an opaque id. A reader that sends it in the header `Last-Event-ID` resumes from there. "
    "`Last-Event-ID: 0` gives every event that is still kept, from the first, and no `snapshot`. "
    "A comment is sent at least every 15 seconds."
)

_route = partial(Route, tag="Events", access=Access.OWN)

ROUTES = [
    _route(
        "GET",
        "/v1/jobs/{id}/events",
        job_events,
        "Follow a job",
        {200: None},
        media_type="text/event-stream",
        unlimited=True,
        query=JobEventsQuery,
        description=(
            "`snapshot` (the job), then `status`, `step`, `progress`, `log`, at last `end` (the job). " + _DESCRIPTION
        ),
    ),
    _route(
        "GET",
        "/v1/accounts/{account}/events",
        account_events,
        "Follow all jobs of an account",
        {200: None},
        media_type="text/event-stream",
        unlimited=True,
        description=(
            "A `snapshot` for each unfinished job, then events as for a job; each datum has `job` too. "
            "It does not end. " + _DESCRIPTION
        ),
    ),
]
