"""Server-sent events of a job and of an account: what the hub brings, in order, resumable.

Invariants
- Nothing is lost: a stream subscribes first, then reads what there is from SQL, then passes on what comes. What comes
  twice because of that is sent once; what the reader had before, in a snapshot or by an earlier stream, is not sent
  again when the hub is behind and brings it late. What was committed before its request is taken for what it had: that
  is read before the subscription, so all that is committed afterwards is sent, whatever its number.
- A reader that is too slow is served from SQL again, from the last event that it was sent; the process holds no more
  than one queue of bounded length for it.
- A stream holds no thread and no connection to the database while it waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from sqlalchemy import Connection
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tenants.store import events as store
from tenants.store.job_lists import JobFilter
from tenants.store.jobs import UNFINISHED

from ..events import JobEvent, Subscription
from ..jobs import is_finished
from .auth import Access
from .json_text import to_json
from .routing import Call, Route
from .service import Service

#: A comment at least this often, so that proxies and clients know that the stream lives.
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": here\n\n"
#: Numbers of events that were sent or are in a snapshot, to know them when they come again.
REMEMBERED = 2000
PAGE = 500
#: Unfinished jobs that an account's stream begins with.
SNAPSHOT_JOBS = 100

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


def frame(name: str, data: Any, seq: int) -> bytes:
    """One event as it goes over the wire. JSON has no line breaks, so one `data` line holds it."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, name.encode(), to_json(data))


class _Stream(ABC):
    """What both kinds of stream share: where they are, and what they have sent."""

    def __init__(self, service: Service, events: Subscription, last: int | None, had: Sequence[int]) -> None:
        """Of a reader that was at `last` and has had these numbers, the newest first; None: it begins anew."""
        self.service = service
        self.events = events
        self.resumes = last is not None
        self.last = last or 0
        self._sent: deque[int] = deque(maxlen=REMEMBERED)
        self._known: set[int] = set()
        self.pass_over(had)

    def is_new(self, seq: int) -> bool:
        """False for what was sent already; remembers the number."""
        if seq in self._known:
            return False
        if len(self._sent) == REMEMBERED:
            self._known.discard(self._sent[0])
        self._sent.append(seq)
        self._known.add(seq)
        self.last = max(self.last, seq)
        return True

    def pass_over(self, newest_first: Sequence[int]) -> None:
        """Never send these: the reader has them."""
        for seq in reversed(newest_first):
            self.is_new(seq)

    async def stored(self) -> AsyncIterator[JobEvent]:
        """What SQL has after the last event."""
        while True:
            rows = await self.service.in_thread(self._read)
            for row in rows:
                event = JobEvent.of(row)
                if self.is_new(event.seq):
                    yield event
            if len(rows) < PAGE:
                return

    async def all(self) -> AsyncIterator[JobEvent | None]:
        """What SQL has, then what comes; None when it is time for a heartbeat."""
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
            elif self.is_new(arrived.seq):
                yield arrived

    @abstractmethod
    def _read(self) -> Sequence[Any]:
        """The next page of events after `last`, oldest first."""


class _JobStream(_Stream):
    def __init__(
        self, service: Service, events: Subscription, job: dict[str, Any], last: int | None, had: Sequence[int]
    ) -> None:
        super().__init__(service, events, last, had)
        self.job = job

    def _read(self) -> Sequence[Any]:
        account, job_id = self.job["account"], self.job["id"]
        return self.service.database.read(
            lambda connection: store.of_job(connection, account, job_id, self.last, limit=PAGE)
        )

    async def frames(self) -> AsyncIterator[bytes]:
        if not self.resumes:
            await self.service.in_thread(self._take_snapshot)
            yield frame("snapshot", self.job, self.last)
        ended = is_finished(self.job["status"])
        if ended:
            async for event in self.stored():
                yield frame(event.type, event.data, event.seq)
        else:
            async for coming in self.all():
                if coming is None:
                    yield HEARTBEAT
                    continue
                yield frame(coming.type, coming.data, coming.seq)
                if coming.type == "status" and is_finished(coming.data["status"]):
                    break
            async for event in self.stored():  # what was recorded together with the end
                yield frame(event.type, event.data, event.seq)
        yield frame("end", await self.service.in_thread(self._whole), self.last)

    def _take_snapshot(self) -> None:
        """First the events so far, then the job: what happens in between is in the snapshot and comes once more."""
        account, job_id = self.job["account"], self.job["id"]
        self.pass_over(self.service.database.read(lambda c: store.newest_of_job(c, account, job_id, limit=REMEMBERED)))
        self.job = self._whole()

    def _whole(self) -> dict[str, Any]:
        return self.service.jobs.get(self.job["id"], None)


class _AccountStream(_Stream):
    def __init__(
        self, service: Service, events: Subscription, account: str, last: int | None, had: Sequence[int]
    ) -> None:
        super().__init__(service, events, last, had)
        self.account = account

    def _read(self) -> Sequence[Any]:
        return self.service.database.read(
            lambda connection: store.of_account(connection, self.account, self.last, limit=PAGE)
        )

    async def frames(self) -> AsyncIterator[bytes]:
        if not self.resumes:
            await self.service.in_thread(self._take_place)
            for job in await self.service.in_thread(self._unfinished):
                yield frame("snapshot", {**job, "job": job["id"]}, self.last)
        async for coming in self.all():
            yield (
                HEARTBEAT if coming is None else frame(coming.type, {"job": coming.job_id, **coming.data}, coming.seq)
            )

    def _take_place(self) -> None:
        """A new stream begins after all that there is, which is in the snapshots."""

        def read(connection: Connection) -> Sequence[int]:
            self.last = store.newest(connection)
            return store.newest_of_account(connection, self.account, until=self.last, limit=REMEMBERED)

        self.pass_over(self.service.database.read(read))

    def _unfinished(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for status in UNFINISHED:
            items, _ = self.service.jobs.list(JobFilter(account=self.account, status=status), limit=SNAPSHOT_JOBS)
            found.extend(items)
        return sorted(found, key=lambda job: str(job["id"]))[-SNAPSHOT_JOBS:]


class _EventResponse(StreamingResponse):
    """A stream whose subscription ends with it, whichever way it ends; a HEAD has none."""

    def __init__(self, frames: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def job_events(call: Call[Any, Any]) -> Response:
    service, job_id = call.service, call.params["id"]
    job = await service.in_thread(lambda: service.jobs.get(job_id, call.owner))
    if call.request.method == "HEAD":
        return Response(headers=_HEADERS)
    last, had = await _place(
        call, lambda c, until: store.newest_of_job(c, job["account"], job_id, until=until, limit=REMEMBERED)
    )
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(service.events.of_job(job_id))
        # Again, because it may have ended before the subscription.
        job = await service.in_thread(lambda: service.jobs.get(job_id, call.owner))
        stream = _JobStream(service, events, job, last, had)
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
) -> tuple[int | None, Sequence[int]]:
    """Where the reader was, and the numbers up to there, as they are now; to be asked for before subscribing."""
    last = _last_event_id(call)
    if last is None:
        return None, ()
    return last, await call.service.in_thread(lambda: call.service.database.read(lambda c: newest(c, last)))


def _last_event_id(call: Call[Any, Any]) -> int | None:
    """Where the reader was; an id that is not ours begins anew."""
    given = call.request.headers.get("last-event-id", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else None


_DESCRIPTION = (
    "Each event has an id; a reader that comes back with it in `Last-Event-ID` goes on from there. "
    "A comment comes at least every 15 seconds."
)

ROUTES = [
    Route(
        "GET",
        "/v1/jobs/{id}/events",
        job_events,
        Access.OWN,
        "Follow a job",
        {200: None},
        "Events",
        media_type="text/event-stream",
        unlimited=True,
        description="`snapshot` (the job), then `status`, `step`, `progress`, `log`, at last `end` (the job). "
        + _DESCRIPTION,
    ),
    Route(
        "GET",
        "/v1/accounts/{account}/events",
        account_events,
        Access.OWN,
        "Follow all jobs of an account",
        {200: None},
        "Events",
        media_type="text/event-stream",
        unlimited=True,
        description="A `snapshot` for each unfinished job, then events as for a job; each datum has `job` too. "
        "It does not end. " + _DESCRIPTION,
    ),
]
