"""Real processes that die, stop and lose their server: nothing is lost, nothing runs twice at one time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest
import redis

from tenants.queues import EmbeddedValkey, Entry, TenantBroker
from tests.queues.conftest import eventually
from tests.queues.lanes import LANE, Client

pytestmark = pytest.mark.processes

StartProcess = Callable[..., subprocess.Popen[str]]
LEASE_SECONDS = 1.0


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Starts worker processes; whatever is left of them is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        url: str, *, lease: float = LEASE_SECONDS, extend: float = 0.3, threads: int = 2
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.queues.worker_program", url, str(lease), str(extend), str(threads)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def stay(number: int, account: str) -> Entry:
    return Entry(dramatiq.Message(LANE, "stay", (number,), {}, {"account": account}), str(number))


def note(number: int, account: str, seconds: float = 0.01) -> Entry:
    return Entry(dramatiq.Message(LANE, "note", (number, seconds), {}, {"account": account}), str(number))


def events(client: Client, kind: str) -> list[list[str]]:
    found = [raw.decode().split(" ") for raw in client.lrange("events", 0, -1)]
    return [each for each in found if each[0] == kind]


def test_a_killed_worker_is_made_good_within_lease_and_a_second(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_many([stay(1, "acme"), stay(2, "acme")])
    first = start_process(redis_url)
    eventually(lambda: len(events(client, "start")) == 1)
    start_process(redis_url)
    first.kill()
    killed_at = time.time()
    eventually(lambda: len(events(client, "start")) == 2)
    again = events(client, "start")[1]
    assert again[1:3] == ["1", "acme"]
    assert float(again[4]) - killed_at <= LEASE_SECONDS + 1
    client.set("go", 1)
    eventually(lambda: len(events(client, "end")) == 2)
    assert [each[1] for each in events(client, "end")] == ["1", "2"]


def test_a_stopped_worker_hands_back_at_once(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_many([stay(1, "a"), stay(2, "b"), note(3, "c")])
    process = start_process(redis_url, lease=30, extend=10, threads=2)
    eventually(lambda: len(events(client, "start")) == 2)
    process.send_signal(signal.SIGTERM)
    other = start_process(redis_url, lease=30, extend=10, threads=1)
    eventually(lambda: [each[1] for each in events(client, "end")] == ["3"])
    client.set("go", 1)
    assert process.wait(timeout=10) == 0
    assert broker.queues_admin.totals(LANE).active == 0
    assert other.poll() is None


def test_a_frozen_worker_cannot_settle_what_another_has(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_once(stay(1, "acme"))
    frozen = start_process(redis_url)
    eventually(lambda: len(events(client, "start")) == 1)
    frozen.send_signal(signal.SIGSTOP)
    start_process(redis_url)
    eventually(lambda: len(events(client, "start")) == 2)
    frozen.send_signal(signal.SIGCONT)
    # It learns of its loss by itself: the actor is interrupted and settles nothing.
    eventually(lambda: len(events(client, "interrupted")) == 1)
    assert broker.queues_admin.contains(LANE, "acme", ["1"]) == {"1"}
    client.set("go", 1)
    eventually(lambda: broker.queues_admin.totals(LANE).active == 0)
    first, second = (int(each[3]) for each in events(client, "start"))
    assert second > first
    assert broker.queues_admin.contains(LANE, "acme", ["1"]) == set()


def test_kills_in_the_middle_of_many_accounts_lose_nothing(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    total = 400
    broker.enqueue_many([note(number, f"a{number % 20}") for number in range(total)])
    start_process(redis_url, threads=4)
    for round_number in range(3):
        victim = start_process(redis_url, threads=4)
        wanted = (round_number + 1) * 60
        eventually(lambda wanted=wanted: len(events(client, "end")) >= wanted, 20)  # type: ignore[misc]
        victim.kill()
    eventually(lambda: broker.queues_admin.totals(LANE).waiting + broker.queues_admin.totals(LANE).active == 0, 30)
    ended = {int(each[1]) for each in events(client, "end")}
    assert ended == set(range(total))
    assert events(client, "overlap") == []


@pytest.mark.parametrize("keep_data", [True, False])
def test_a_restarted_server_is_found_again(tmp_path: Path, start_process: StartProcess, keep_data: bool) -> None:
    server = EmbeddedValkey(tmp_path, appendfsync="always")
    server.start()
    client = redis.Redis.from_url(server.url)
    broker = TenantBroker(url=server.url)
    try:
        broker.enqueue_many([note(number, "acme", 0.05) for number in range(20)])
        start_process(server.url)
        eventually(lambda: len(events(client, "end")) >= 3)
        server.stop()
        if not keep_data:
            for file in (tmp_path / "appendonlydir").iterdir():
                file.unlink()
        server.start()
        if not keep_data:
            broker.enqueue_many([note(number, "acme", 0.05) for number in range(20)])
        eventually(lambda: client.llen("events") > 0 and broker.queues_admin.totals(LANE).waiting == 0, 30)
        eventually(lambda: broker.queues_admin.totals(LANE).active == 0, 15)
        assert {int(each[1]) for each in events(client, "end")} == set(range(20))
    finally:
        broker.close()
        client.close()
        server.stop()
