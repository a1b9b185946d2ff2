"""A reader that is cut off again and again gets each committed event once, however transactions interleave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.control.event_positions import Position, Range, at_most, below, contains, ranges_between, without
from orchestrator.control.events import EventHub
from orchestrator.runtime import Runtime
from tests.orchestrator.web.event_streams import Sse, create, stream

numbers = st.sets(st.integers(1, 60))


def members(ranges: tuple[Range, ...]) -> set[int]:
    return {number for low, high in ranges for number in range(low, high + 1)}


# --- positions -----------------------------------------------------------------------------------------------------


@given(numbers, numbers, st.integers(1, 61), st.integers(1, 5))
def test_ranges_are_sets_of_numbers(present: set[int], taken: set[int], number: int, count: int) -> None:
    missing = ranges_between(1, 60, sorted(present))
    assert members(missing) == set(range(1, 61)) - present
    assert members(without(missing, taken)) == members(missing) - taken
    assert members(below(missing, number)) == {each for each in members(missing) if each < number}
    assert contains(missing, number) == (number in members(missing))
    fewer = at_most(missing, count)
    assert len(fewer) <= max(count, 1)
    assert members(fewer) >= members(missing)


@given(numbers, st.integers(0, 40))
def test_a_position_is_read_as_it_was_written(present: set[int], more: int) -> None:
    last = max(present, default=0) + more
    position = Position(last, below(ranges_between(1, last, sorted(each for each in present if each <= last)), last))
    assert Position.parse(str(position)) == position


@example("10~0")
@example("10~11")
@example("10~3-5,4")
@example("10~5-3")
@example("10~1,1")
@example("1" * 19)
@example("١٢")
@example("1042~" + ",".join(["1"] * 500))
@given(st.text("0123456789~-,x ", max_size=20))
def test_any_text_is_a_position_or_none(text: str) -> None:
    position = Position.parse(text)
    if position is not None:
        assert all(0 <= low <= high < position.last for low, high in position.missing)


def test_a_position_names_a_bounded_number_of_ranges() -> None:
    position = Position(10_001, ranges_between(1, 10_000, range(1, 10_001, 2)))
    assert len(position.missing) == 5_000
    written = Position.parse(str(position))
    assert written is not None
    assert len(str(position)) < 500
    assert members(written.missing) >= members(position.missing)


# --- readers that are cut off --------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Collects a stream's log events; a cut forgets the last ones, as a client does that had not processed them."""

    address: tuple[str, int]
    path: str
    got: list[str] = field(default_factory=list)
    position: str | None = None
    _since_cut: list[tuple[str, str]] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with stream(self.address, self.path, self.position) as sse:
            if self.position is None:
                assert (await sse.next())[0] == "snapshot"
                self.position = sse.last_id
            task = asyncio.create_task(self._collect(sse))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _collect(self, sse: Sse) -> None:
        while True:
            name, data = await sse.next()
            if name == "log":
                async with self._arrived:
                    self._since_cut.append((data["message"], sse.last_id))
                    self._arrived.notify_all()

    async def until(self, message: str) -> None:
        async with self._arrived, asyncio.timeout(60):
            await self._arrived.wait_for(lambda: any(text == message for text, _ in self._since_cut))

    def cut(self, keep: int) -> None:
        """What came after the first `keep` events since the last cut is lost, and asked for again."""
        kept = self._since_cut[:keep]
        self.got += [text for text, _ in kept]
        if kept:
            self.position = kept[-1][1]
        self._since_cut.clear()


class Writers:
    """Transactions that take their events' numbers at once and are committed later, in any order."""

    def __init__(self, runtime: Runtime, jobs: list[str]) -> None:
        self._runtime = runtime
        self._jobs = jobs
        self._open: dict[int, tuple[psycopg.Connection[Any], list[str]]] = {}
        self._count = 0

    def write(self, transaction: int, job: int) -> None:
        if transaction not in self._open:
            self._open[transaction] = (
                psycopg.connect(str(self._runtime.settings.database_url).replace("+psycopg", "", 1)),
                [],
            )
        connection, texts = self._open[transaction]
        self._count += 1
        message = f"{job}:{self._count}"
        connection.execute(
            "INSERT INTO events (account, job_id, type, data, created_at)"
            " VALUES ('acme', %s, 'log', json_build_object('message', %s::text), now())",
            (self._jobs[job], message),
        )
        texts.append(message)

    def end(self, transaction: int, commit: bool) -> list[str]:
        """The messages that were committed."""
        if transaction not in self._open:
            return []
        connection, texts = self._open.pop(transaction)
        if commit:
            connection.commit()
        connection.close()
        self._runtime.event_notifier.notify()
        return texts if commit else []

    def end_all(self) -> None:
        for transaction in list(self._open):
            self.end(transaction, commit=False)


transactions = st.integers(0, 3)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), transactions, st.integers(0, 1)),
        st.tuples(st.just("commit"), transactions, st.just(0)),
        st.tuples(st.just("commit"), transactions, st.just(0)),
        st.tuples(st.just("roll back"), transactions, st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 4), st.integers(0, 1)),
        st.tuples(st.just("connect"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=14,
)
#: A reader gets a higher number, is cut off, and the lower one is committed before it comes back.
LOST_BEFORE = [("write", 0, 0), ("write", 1, 0), ("commit", 1, 0), ("cut", 9, 1), ("commit", 0, 0), ("connect", 0, 0)]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("of", ["job", "account"])
def test_readers_that_are_cut_off_get_each_event_once(address: tuple[str, int], runtime: Runtime, of: str) -> None:
    jobs = [str(create(runtime)["id"]) for _ in range(2)]
    path = f"/v1/jobs/{jobs[0]}/events" if of == "job" else "/v1/accounts/acme/events"

    async def run(begun: list[tuple[str, int, int]], ahead: list[tuple[str, int, int]]) -> None:
        writers, reader, expected = Writers(runtime, jobs), Reader(address, path), list[str]()

        def act(what: str, number: int, job: int) -> None:
            if what == "write":
                writers.write(number, job)
            elif what in ("commit", "roll back"):
                texts = writers.end(number, commit=what == "commit")
                expected.extend(text for text in texts if of == "account" or text.startswith("0:"))

        try:
            for action in begun:
                await asyncio.to_thread(act, *action)
            expected.clear()  # what was committed before the snapshot is in it
            left = list(ahead)
            while left:
                keep = 10**6
                async with reader.connected():
                    while left:
                        what, number, wait = left.pop(0)
                        if what == "cut":
                            if wait and expected and expected[-1] not in reader.got:
                                await reader.until(expected[-1])
                            keep = number
                            break
                        await asyncio.to_thread(act, what, number, wait)
                # Only once nothing more comes over the old connection: that would be counted for the next one.
                reader.cut(keep)
                while left and (action := left.pop(0))[0] != "connect":  # the reader is away
                    await asyncio.to_thread(act, *action)
            async with reader.connected():
                await asyncio.to_thread(writers.end_all)
                await asyncio.to_thread(writers.write, 0, 0)
                last = await asyncio.to_thread(writers.end, 0, True)
                expected.extend(last)
                await reader.until(last[0])
            reader.cut(10**6)
        finally:
            writers.end_all()
        assert sorted(reader.got) == sorted(expected), (reader.got, expected)

    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @example([], LOST_BEFORE)
    @example(LOST_BEFORE[:3], [("commit", 0, 0), ("cut", 0, 0)])
    @given(actions, actions)
    def check(begun: list[tuple[str, int, int]], ahead: list[tuple[str, int, int]]) -> None:
        asyncio.run(run([each for each in begun if each[0] != "cut"], ahead))

    check()


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_a_number_that_was_rolled_back_is_not_waited_for(runtime: Runtime) -> None:
    """The hub knows from PostgreSQL that the number's transaction has ended; ids of events stay short."""
    hub = EventHub(runtime.database, runtime.settings.redis_url)

    async def run() -> None:
        writers = Writers(runtime, ["j1"])
        async with hub.of_job("j1") as events, asyncio.timeout(60):
            await asyncio.to_thread(writers.write, 0, 0)
            await asyncio.to_thread(writers.write, 1, 0)
            await asyncio.to_thread(writers.end, 1, True)
            assert await events.next(60) is not None
            assert len(events.position.missing) == 1
            await asyncio.to_thread(writers.end, 0, False)
            while events.position.missing:
                await asyncio.to_thread(writers.write, 0, 0)
                await asyncio.to_thread(writers.end, 0, True)
                assert await events.next(60) is not None

    try:
        asyncio.run(run())
    finally:
        hub.close()
