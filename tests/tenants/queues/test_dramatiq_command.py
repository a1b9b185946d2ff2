"""The `dramatiq` command with several processes, and every middleware, over the tenant broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from tenants.queues import Entry, TenantBroker
from tests.support.servers import free_port
from tests.tenants.queues.conftest import eventually
from tests.tenants.queues.lanes import Client
from tests.tenants.queues.observed import attempts, events, overlaps, runs

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

LANE = "default"
PROGRAM = "tests.tenants.queues.cli_project"


@pytest.fixture
def start_command(redis_url: str) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `dramatiq`; its whole group is killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "LANES_URL": redis_url, **settings}
        process = subprocess.Popen(
            [sys.executable, "-m", "dramatiq", PROGRAM, "--worker-shutdown-timeout", "20000", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def send(broker: TenantBroker, actor: str, *arguments: object, account: str | None = "acme", **options: Any) -> None:
    broker.enqueue(Message(LANE, actor, arguments, {}, {"account": account, **options}))


def reported(client: Client) -> list[str]:
    return [raw.decode().rsplit(" ", 1)[0] for raw in client.lrange("reported", 0, -1)]


def test_processes_share_the_work_and_stop_in_order(
    broker: TenantBroker, client: Client, start_command: Callable[..., subprocess.Popen[bytes]]
) -> None:
    total = 240
    broker.declare_queue(LANE)
    messages = (Message[None](LANE, "work", (n, 0.1), {}, {"account": f"a{n % 16}"}) for n in range(total))
    broker.enqueue_many(Entry(message, str(number)) for number, message in enumerate(messages))
    client.set("hold", 1)  # however late the last of the processes comes up, there is work left for it
    command = start_command("--processes", "3", "--threads", "2")
    eventually(lambda: len({each[5] for each in events(client, "start")}) == 3, 90)
    client.delete("hold")
    eventually(lambda: len(events(client, "end")) >= 6)
    command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=60) == 0
    totals = broker.queues_admin.totals(LANE)
    ended = len(events(client, "end"))
    assert totals.active == 0
    assert totals.waiting == total - ended
    start_command("--processes", "2", "--threads", "4")
    eventually(lambda: len(events(client, "end")) == total, 90)
    found = attempts(client)
    assert runs(found) == dict.fromkeys(range(total), 1)
    assert overlaps(found) == []


def test_every_middleware_does_its_work(
    broker: TenantBroker, client: Client, redis_url: str, start_command: Callable[..., subprocess.Popen[bytes]]
) -> None:
    port = str(free_port())
    command = start_command(
        "--processes", "1", "--threads", "4", dramatiq_prom_host="127.0.0.1", dramatiq_prom_port=port
    )
    send(broker, "add", 1, 2, on_success="done", store_results=True)
    send(broker, "later", "x", account="other")
    send(broker, "endless", account="slow")
    old = Message[None](LANE, "old", (), {}, {"account": "aged"}, message_timestamp=1)
    broker.enqueue(old)
    for number in range(6):
        send(broker, "exclusive", account=f"e{number}")
    send(broker, "notified", account="stopped")
    wanted = {"callback 3 acme", "async x other", "time limit slow", "waiting stopped"}
    eventually(lambda: wanted <= set(reported(client)), 60)
    eventually(lambda: len([each for each in reported(client) if each.startswith("inside")]) == 6, 60)
    assert {each.split(" ")[1] for each in reported(client) if each.startswith("inside")} == {"1"}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=45) as answer:
        assert b"dramatiq_messages_total" in answer.read()
    command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=60) == 0
    assert "shutdown stopped" in reported(client)
    assert "too old aged" not in reported(client)
    reasons = {each.account: each.reason.split(":")[0] for each in broker.queues_admin.buried(LANE)}
    assert reasons["slow"] == "TimeLimitExceeded"
    assert broker.queues_admin.totals(LANE).active == 0


def test_a_group_calls_back_for_its_account(
    client: Client,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    start_command: Callable[..., subprocess.Popen[bytes]],
) -> None:
    monkeypatch.setenv("LANES_URL", redis_url)
    from dramatiq.middleware import GroupCallbacks
    from dramatiq.rate_limits.backends import RedisBackend

    callbacks: Any = GroupCallbacks
    broker = TenantBroker(url=redis_url)
    broker.add_middleware(callbacks(RedisBackend(url=redis_url)))
    dramatiq.set_broker(broker)
    seen: list[str | None] = []

    @dramatiq.actor
    def part() -> None: ...

    @dramatiq.actor
    def after() -> None:
        from tenants.queues import current_message

        current = current_message()
        seen.append(current.account if current else None)

    untyped: Any = dramatiq.group
    group = untyped([part.message_with_options(account="acme") for _ in range(3)])
    group.add_completion_callback(after.message())
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=100)
    worker.start()
    group.run()
    eventually(lambda: seen == ["acme"])
    worker.stop()
    broker.close()
