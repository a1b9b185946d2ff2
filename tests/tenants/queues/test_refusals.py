"""A server that answers and takes no writes: full, unable to save, read-only. Nothing is half done, the log brief."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Worker
from dramatiq.errors import ConnectionClosed
from redis.exceptions import OutOfMemoryError, ResponseError

from tenants.queues import ScriptFailed, ServerRefuses, TenantBroker
from tenants.queues.errors import to_dramatiq
from tenants.queues.notices import Notices
from tests.support.servers import ValkeyProcess, free_port, start_valkey
from tests.tenants.queues.conftest import eventually
from tests.tenants.queues.lanes import LANE, Client, Hand, entry

REPLIES = [
    (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "full"),
    (ResponseError("OOM command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:5."), "full"),
    (
        ResponseError("Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not allowed"),
        "full",
    ),
    (ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to"), "cannot_save"),
    (ResponseError("NOREPLICAS Not enough good replicas to write."), "too_few_replicas"),
    (ResponseError("BUSY Redis is busy running a script."), "busy"),
    (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), "read_only"),
    (redis.exceptions.BusyLoadingError("is loading the dataset in memory"), "loading"),
    (redis.exceptions.MasterDownError("Link with MASTER is down"), "failing_over"),
    (redis.exceptions.ClusterDownError("The cluster is down"), "failing_over"),
    (redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot"), "failing_over"),
]


@pytest.mark.parametrize(("reply", "reason"), REPLIES, ids=lambda each: str(each)[:20])
def test_each_refusal_is_a_closed_connection_with_its_reason(reply: Exception, reason: str) -> None:
    error = to_dramatiq(reply)
    assert isinstance(error, ServerRefuses)
    assert isinstance(error, ConnectionClosed)
    assert error.reason == reason


def test_a_fault_of_a_script_is_no_refusal() -> None:
    assert isinstance(to_dramatiq(ResponseError("Error running script: attempt to index a nil value")), ScriptFailed)


def test_a_notice_is_due_once_a_minute() -> None:
    now = [0.0]
    notices = Notices(lambda: now[0])
    assert notices.due("full") == 0
    assert [notices.due("full") for _ in range(3)] == [None] * 3
    assert notices.due("read_only") == 0
    now[0] = 60.0
    assert notices.due("full") == 3


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyProcess]:
    server = start_valkey(tmp_path, "--enable-protected-configs", "local")
    yield server
    server.stop()


def fill_up(client: Client, folder: Path) -> str:
    client.config_set("maxmemory", 1)
    return "full"


def stop_saving(client: Client, folder: Path) -> str:
    """A snapshot that cannot be written, because a folder has its name."""
    (folder / "taken.rdb").mkdir()
    client.config_set("dbfilename", "taken.rdb")
    client.config_set("save", "3600 1")
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    return "cannot_save"


def make_replica(client: Client, folder: Path) -> str:
    client.replicaof("127.0.0.1", free_port())
    return "read_only"


def recover(client: Client) -> None:
    client.config_set("maxmemory", 0)
    client.config_set("save", "")
    client.replicaof("NO", "ONE")


def contents(client: Client) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


@pytest.mark.parametrize("refuse", [fill_up, stop_saving, make_replica])
def test_a_refused_call_changes_nothing(
    own: ValkeyProcess, tmp_path: Path, refuse: Callable[[Client, Path], str]
) -> None:
    with contextlib.closing(redis.Redis.from_url(own.url)) as connected:
        client: Any = connected
        broker = TenantBroker(url=own.url)
        hand = Hand(broker)
        broker.enqueue_many(entry(str(number), account) for account in ("a", "b", "c") for number in range(3))
        lease = hand.claim_one()
        before = contents(client)
        reason = refuse(client, tmp_path)
        admin = broker.queues_admin
        calls: list[Callable[[], Any]] = [
            lambda: broker.enqueue_once(entry("new")),
            lambda: hand.claim(2),
            lambda: hand.settle(lease, chain=True),
            lambda: hand.extend(lease),
            lambda: hand.give_back(lease),
            lambda: admin.purge(LANE, "b"),
            lambda: admin.pause(LANE, "a"),
            lambda: admin.check(LANE),
            lambda: admin.flush(LANE),
        ]
        for call in calls:
            with pytest.raises(ServerRefuses) as caught:
                call()
            assert caught.value.reason == reason
        assert contents(client) == before
        assert broker.check_health().faults.keys() == {reason}
        assert admin.totals(LANE).waiting == 8  # questions are answered
        recover(client)
        assert broker.check_health().faults == {}
        assert len(hand.settle(lease, chain=True)) == 1
        assert admin.check(LANE) == []
        broker.close()


def test_a_policy_that_evicts_is_named(broker: TenantBroker, client: Client) -> None:
    assert broker.check_health().faults == {}
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        faults = broker.check_health().faults
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert faults.keys() == {"evicting"}
    assert "allkeys-lru" in faults["evicting"]


@pytest.mark.timeout(120)
def test_a_worker_waits_for_a_full_server_with_one_line_and_goes_on(
    broker: TenantBroker,
    client: Client,
    start_worker: Callable[..., Worker],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tenants.queues.notices.refusals", Notices())
    caplog.set_level(logging.DEBUG, "tenants.queues.consumer")
    done: list[int] = []

    @dramatiq.actor(queue_name=LANE, max_retries=0)
    def note(number: int) -> None:
        done.append(number)
        if number == 1:
            client.config_set("maxmemory", 1)  # before this very message is settled

    broker.enqueue(note.message_with_options(args=(1,), account="acme"))
    broker.enqueue(note.message_with_options(args=(2,), account="acme"))

    def refused(message: str) -> int:
        return sum(message in each.getMessage() for each in caplog.records)

    try:
        start_worker(broker, threads=1)
        eventually(lambda: refused("is not settled yet") >= 3)
        lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(lines) == 1, [each.getMessage() for each in lines]
        assert "maxmemory" in lines[0].getMessage()
    finally:
        client.config_set("maxmemory", 0)
    eventually(lambda: done == [1, 2])
    eventually(lambda: broker.queues_admin.totals(LANE).active == 0)
    client.config_set("maxmemory", 1)
    try:
        eventually(lambda: refused("Nothing is claimed") >= 2)
    finally:
        client.config_set("maxmemory", 0)
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
