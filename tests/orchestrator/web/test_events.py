"""The event hub, `wait` and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import insert

from orchestrator.control import events as hub_module
from orchestrator.control.events import EventHub, JobEvent
from orchestrator.runtime import Runtime
from orchestrator.web.api import events as stream_module
from tenants.database.columns import db_now
from tenants.store import attempt
from tenants.store import events as store
from tenants.store.events import NewEvent
from tests.orchestrator.web.conftest import ADMIN_KEY, ON_BOTH, Api, Bench
from tests.orchestrator.web.event_streams import create, stream

AUTH = {"Authorization": f"Bearer {ADMIN_KEY}"}


def happen(runtime: Runtime, job: str, number: int, account: str = "acme") -> None:
    event = NewEvent(account, job, "log", {"step": "write", "level": "info", "message": str(number)})
    runtime.database.write(lambda c: store.record(c, event))


@pytest.fixture
def hub(runtime: Runtime) -> Iterator[EventHub]:
    made = EventHub(runtime.database, runtime.settings.redis_url)
    yield made
    made.close()


# --- the hub -------------------------------------------------------------------------------------------------------


@ON_BOTH
def test_a_subscriber_gets_what_is_committed_after_it_entered(runtime: Runtime, hub: EventHub) -> None:
    async def run() -> tuple[list[str], list[str], float]:
        happen(runtime, "j1", 0)
        async with hub.of_job("j1") as job, hub.of_account("acme") as account:
            began = time.monotonic()
            for number in (1, 2):
                await asyncio.to_thread(happen, runtime, "j1", number)
            await asyncio.to_thread(happen, runtime, "j2", 3)
            await asyncio.to_thread(happen, runtime, "j3", 4, "other")
            first = await job.next(60)
            took = time.monotonic() - began
            events = [first, await job.next(60)]
            whole = [await account.next(60) for _ in range(3)]
            assert await job.next(0.05) is None
            assert await account.next(0.05) is None
            return texts(events), texts(whole), took

    job, account, took = asyncio.run(run())
    assert (job, account) == (["1", "2"], ["1", "2", "3"])
    assert took < 15, "it came"
    assert hub.subscribers == 0


def texts(events: list[JobEvent | None]) -> list[str]:
    return [event.data["message"] for event in events if event is not None]


def test_a_ring_over_redis_is_quicker_than_the_poll(
    runtime: Runtime, hub: EventHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a poll that never comes, only the ring of another process' commit can bring the event."""
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 3600.0)

    async def run() -> JobEvent | None:
        async with hub.of_job("j1") as job:
            for number in range(200):  # until the hub's ear is at Redis, a ring may go unnoticed
                await asyncio.to_thread(happen, runtime, "j1", number)
                event = await job.next(0.1)
                if event is not None:
                    return event
        return None

    assert asyncio.run(run()) is not None


def test_without_redis_the_poll_brings_events(runtime: Runtime) -> None:
    hub = EventHub(runtime.database, "redis://127.0.0.1:1/0")

    async def run() -> JobEvent | None:
        async with hub.of_job("j1") as job:
            await asyncio.to_thread(happen, runtime, "j1", 1)
            return await job.next(60)

    assert asyncio.run(run()) is not None
    hub.close()


def test_a_slow_reader_is_reported_to_read_again(
    runtime: Runtime, hub: EventHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "QUEUE_LENGTH", 5)

    async def run() -> bool:
        async with hub.of_job("j1") as job:
            for number in range(20):
                await asyncio.to_thread(happen, runtime, "j1", number)
            for _ in range(100):
                if job.lagged:
                    return await job.next(0) is None
                await asyncio.sleep(0.1)
        return False

    assert asyncio.run(run())


def test_an_event_that_is_committed_late_is_not_lost(runtime: Runtime, hub: EventHub) -> None:
    """A number that was skipped turns up when its transaction commits after a later one."""

    def put(seq: int, text: str) -> None:
        values = {"seq": seq, "account": "acme", "job_id": "j1", "type": "log", "data": {"message": text}}
        runtime.database.write(lambda c: c.execute(insert(store.events).values(created_at=db_now(), **values)))
        runtime.event_notifier.notify()

    async def run() -> list[str]:
        async with hub.of_job("j1") as job:
            await asyncio.to_thread(put, 1000, "first")
            await asyncio.to_thread(put, 1002, "third")
            seen = [await job.next(60), await job.next(60)]
            await asyncio.to_thread(put, 1001, "second")
            seen.append(await job.next(60))
            return texts(seen)

    assert asyncio.run(run()) == ["first", "third", "second"]


def test_a_hub_without_its_database_says_so(runtime: Runtime, hub: EventHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenants.errors import Unavailable

    def away(work: Callable[..., Any]) -> Any:
        raise Unavailable("away")

    monkeypatch.setattr(hub_module, "POSITION_SECONDS", 0.2)
    monkeypatch.setattr(runtime.database, "read", away)

    async def run() -> None:
        async with hub.of_job("j1"):
            pass

    with pytest.raises(Unavailable):
        asyncio.run(run())


# --- the streams ---------------------------------------------------------------------------------------------------


@ON_BOTH
def test_a_jobs_stream_reports_its_life_and_ends(address: tuple[str, int], runtime: Runtime, bench: Bench) -> None:
    job = create(runtime)

    async def run() -> list[tuple[str, Any]]:
        async with stream(address, f"/v1/jobs/{job['id']}/events") as sse:
            first = await sse.next()
            owned = await asyncio.to_thread(bench.start, job)
            await asyncio.to_thread(bench.write, lambda c: attempt.progress(c, owned, 40, "half-way"))
            await asyncio.to_thread(happen, runtime, job["id"], 7)
            await asyncio.to_thread(bench.fail, owned)
            found = [first, *await sse.until("end")]
            with pytest.raises(EOFError):
                await sse.next()
            return found

    events = asyncio.run(run())
    assert (events[0][0], events[0][1]["id"], events[0][1]["status"]) == ("snapshot", job["id"], "queued")
    assert events[-1][0] == "end"
    assert (events[-1][1]["status"], events[-1][1]["steps"][0]["status"]) == ("failed", "failed")
    between = [(name, data) for name, data in events[1:-1]]
    assert ("status", {"status": "running"}) in between
    assert ("step", {"step": "write", "status": "running", "attempt": 1}) in between
    assert ("progress", {"step": "write", "progress": 40, "note": "half-way"}) in between
    assert ("log", {"step": "write", "level": "info", "message": "7"}) in between
    assert ("step", {"step": "write", "status": "failed", "attempt": 1}) in between
    assert ("status", {"status": "failed"}) in between
    assert len(between) == 6, "nothing came twice"


def test_a_stream_resumes_where_it_was(address: tuple[str, int], runtime: Runtime, bench: Bench) -> None:
    job = create(runtime)
    path = f"/v1/jobs/{job['id']}/events"

    async def run() -> list[tuple[str, Any]]:
        async with stream(address, path) as sse:
            await sse.next()
            await asyncio.to_thread(happen, runtime, job["id"], 1)
            await sse.until("log")
            last = sse.last_id
        await asyncio.to_thread(happen, runtime, job["id"], 2)
        async with stream(address, path, last) as sse:
            found = [await sse.next()]
            await asyncio.to_thread(happen, runtime, job["id"], 3)
            found.append(await sse.next())
            last = sse.last_id
        await asyncio.to_thread(runtime.jobs.cancel, job["id"])
        async with stream(address, path, last) as sse:
            found += await sse.until("end")
        async with stream(address, path, "nonsense") as sse:
            found += await sse.until("end")
        return found

    events = asyncio.run(run())
    assert [data["message"] for name, data in events if name == "log"] == ["2", "3"]
    assert [name for name, _ in events[2:]] == ["status", "end", "snapshot", "end"]


@contextlib.contextmanager
def hub_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The hub's thread waits before its next look at SQL, as where the machine is busy, until the event is set."""
    look, at_the_gate, gate = hub_module._Reader.read, threading.Event(), threading.Event()

    def held(reader: hub_module._Reader) -> list[JobEvent]:
        at_the_gate.set()
        assert gate.wait(60)
        return look(reader)

    monkeypatch.setattr(hub_module._Reader, "read", held)
    assert at_the_gate.wait(60)
    try:
        yield gate
    finally:
        gate.set()


@ON_BOTH
def test_what_the_reader_had_does_not_come_again_from_a_hub_that_is_behind(
    address: tuple[str, int], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create(runtime)
    elsewhere = f"/v1/jobs/{create(runtime, 'other')['id']}/events"
    paths = (f"/v1/jobs/{job['id']}/events", "/v1/accounts/acme/events")

    async def run() -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            await (await stack.enter_async_context(stream(address, elsewhere))).next()  # the hub is at work from here
            with hub_held(monkeypatch) as gate:
                await asyncio.to_thread(happen, runtime, job["id"], 1)
                last = str(await asyncio.to_thread(runtime.database.read, store.newest))
                begun = [await stack.enter_async_context(stream(address, path)) for path in paths]
                assert [(await each.next())[0] for each in begun] == ["snapshot", "snapshot"]
                await asyncio.to_thread(happen, runtime, job["id"], 2)
                resumed = [await stack.enter_async_context(stream(address, path, last)) for path in paths]
                assert [(await each.next())[1]["message"] for each in resumed] == ["2", "2"]
                gate.set()
            await asyncio.to_thread(happen, runtime, job["id"], 3)
            first = [(await each.next())[1]["message"] for each in begun]
            return first + [(await each.next())[1]["message"] for each in (*begun, *resumed)]

    assert asyncio.run(run()) == ["2", "2", "3", "3", "3", "3"]


@ON_BOTH
def test_what_is_committed_after_a_stream_began_is_sent_whatever_its_number(
    address: tuple[str, int], runtime: Runtime
) -> None:
    """On PostgreSQL a lower number may be committed after a higher one, which the reader has."""
    job = create(runtime)

    def put(seq: int) -> None:
        values = {"seq": seq, "account": "acme", "job_id": job["id"], "type": "log", "data": {"message": str(seq)}}
        runtime.database.write(lambda c: c.execute(insert(store.events).values(created_at=db_now(), **values)))
        runtime.event_notifier.notify()

    async def run() -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(stream(address, f"/v1/jobs/{job['id']}/events"))
            await first.next()
            for seq in (1000, 1002):
                await asyncio.to_thread(put, seq)
                await first.next()
            paths = (f"/v1/jobs/{job['id']}/events", "/v1/accounts/acme/events")
            resumed = [await stack.enter_async_context(stream(address, path, first.last_id)) for path in paths]
            await asyncio.to_thread(put, 1001)
            return [(await each.next())[1]["message"] for each in resumed]

    assert asyncio.run(run()) == ["1001", "1001"]


@pytest.mark.parametrize("ahead", [0, 1000])
def test_a_stream_that_is_taken_up_after_its_jobs_end_ends(
    address: tuple[str, int], runtime: Runtime, ahead: int
) -> None:
    job = create(runtime)
    runtime.jobs.cancel(job["id"])
    last = str(runtime.database.read(store.newest) + ahead)

    async def run() -> list[tuple[str, Any]]:
        async with stream(address, f"/v1/jobs/{job['id']}/events", last) as sse:
            return await sse.until("end")

    ((name, ended),) = asyncio.run(run())
    assert (name, ended["status"]) == ("end", "cancelled")


def test_an_accounts_stream_names_the_job_in_each_event(address: tuple[str, int], runtime: Runtime) -> None:
    old = create(runtime)
    create(runtime, "other")

    async def run() -> list[tuple[str, Any]]:
        async with stream(address, "/v1/accounts/acme/events") as sse:
            found = [await sse.next()]
            new = await asyncio.to_thread(create, runtime)
            await asyncio.to_thread(create, runtime, "other")
            await asyncio.to_thread(runtime.jobs.cancel, new["id"])
            found += [await sse.next(), await sse.next()]
            return found

    events = asyncio.run(run())
    assert [name for name, _ in events] == ["snapshot", "status", "status"]
    assert events[0][1]["job"] == old["id"]
    assert {event[1]["job"] for event in events[1:]} != {old["id"]}
    assert events[2][1]["status"] == "cancelled"


def test_a_quiet_stream_has_heartbeats_and_a_slow_one_is_served_from_sql(
    address: tuple[str, int], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(hub_module, "QUEUE_LENGTH", 3)
    job = create(runtime)

    async def run() -> tuple[list[str], int]:
        async with stream(address, f"/v1/jobs/{job['id']}/events") as sse:
            await sse.next()

            def burst() -> None:
                events = [NewEvent("acme", job["id"], "log", {"message": str(number)}) for number in range(50)]
                runtime.database.write(lambda c: store.record(c, *events))

            await asyncio.to_thread(burst)
            seen = [(await sse.next())[1]["message"] for _ in range(50)]
            for number in range(50, 350):  # heartbeats are read in progress to the next event
                await asyncio.sleep(0.3)
                await asyncio.to_thread(happen, runtime, job["id"], number)
                await sse.next()
                if sse.heartbeats:
                    break
            return seen, sse.heartbeats

    seen, heartbeats = asyncio.run(run())
    assert seen == [str(number) for number in range(50)]
    assert heartbeats > 0


def test_streams_hold_no_threads_and_leave_nothing_behind(address: tuple[str, int], runtime: Runtime) -> None:
    job = create(runtime)

    async def run() -> tuple[int, int]:
        before = threading.active_count()
        async with contextlib.AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(stream(address, f"/v1/jobs/{job['id']}/events")) for _ in range(60)
            ]
            for each in streams:
                await each.next()
            grown = threading.active_count() - before
            await asyncio.to_thread(happen, runtime, job["id"], 1)
            reported = [await each.next() for each in streams]
            assert len(reported) == 60
            return grown, len(reported)

    grown, reported = asyncio.run(run())
    assert reported == 60
    assert grown < 25


def test_anothers_stream_is_404(api: Api, make_key: Callable[..., str], new_job: Any) -> None:
    job = new_job()
    other = api.with_key(make_key("other"))
    for path in (f"/v1/jobs/{job['id']}/events", "/v1/accounts/acme/events", "/v1/jobs/nope/events"):
        assert other.get(path).status_code == 404
    head = api("HEAD", f"/v1/jobs/{job['id']}/events")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
