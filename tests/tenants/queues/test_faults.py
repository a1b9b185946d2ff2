"""Real processes that die, stop and lose their server: nothing is lost, nothing runs twice at one time (P1).

Each test judges P1 from outside, by the attempts' own times, and prints how long the recovery took.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dramatiq
import pytest
import redis

from tenants.queues import Entry, QueueLimits, TenantBroker
from tests.support.servers import ValkeyProcess, start_valkey
from tests.tenants.queues.conftest import PATIENCE_MS, eventually
from tests.tenants.queues.lanes import LANE, Client, Hand, entry
from tests.tenants.queues.observed import SLACK, attempts, events, overlaps, recovery, report, runs
from tests.tenants.queues.processes import LEASE_SECONDS, StartProcess, is_empty, note
from tests.tenants.queues.proxies import LossyProxy

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


def stay(number: int, account: str) -> Entry:
    return Entry(dramatiq.Message(LANE, "stay", (number,), {}, {"account": account}), str(number))


def wait_until_still(client: Client) -> None:
    """Until nothing runs, and nothing has begun for a second: a thread may have its message and not be on it yet."""
    seen, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        started, ended = (len(events(client, kind)) for kind in ("start", "end"))
        if started != ended or started != seen:
            seen, since = started, time.monotonic()
        return time.monotonic() - since > 1

    eventually(still)


def test_a_killed_worker_is_made_good_within_lease_and_a_second(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_many([stay(1, "acme"), stay(2, "acme")])
    first = start_process(redis_url)
    eventually(lambda: len(events(client, "start")) == 1)
    start_process(redis_url)
    killed_at = time.time()
    first.kill()
    first.wait()
    # Not the time at which this test notices it: on a starved machine its message may run again by then.
    died = {first.pid: killed_at}
    eventually(lambda: len(events(client, "start")) == 2)
    again = attempts(client, died)[1]
    assert (again.number, again.account) == (1, "acme")
    report("SIGKILL of a worker", again.start - killed_at, LEASE_SECONDS + 1)
    client.set("go", 1)
    eventually(lambda: len(events(client, "end")) == 2)
    assert [each[1] for each in events(client, "end")] == ["1", "2"]
    assert overlaps(attempts(client, died)) == []


def test_a_stopped_worker_hands_back_at_once(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_many([stay(1, "a"), stay(2, "b"), note(3, "c")])
    process = start_process(redis_url, lease=60, extend=10, threads=2)
    eventually(lambda: len(events(client, "start")) == 2)
    stopped_at = time.time()
    process.send_signal(signal.SIGTERM)
    other = start_process(redis_url, lease=60, extend=10, threads=1)
    eventually(lambda: [each[1] for each in events(client, "end")] == ["3"])
    report("SIGTERM, what had not started", recovery(attempts(client), stopped_at, ["c"]), 30)
    client.set("go", 1)
    assert process.wait(timeout=PATIENCE_MS / 1000) == 0
    assert broker.queues_admin.totals(LANE).active == 0
    assert other.poll() is None
    assert overlaps(attempts(client)) == []


def test_a_frozen_worker_cannot_settle_what_another_has(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_once(stay(1, "acme"))
    frozen = start_process(redis_url)
    eventually(lambda: len(events(client, "start")) == 1)
    frozen.send_signal(signal.SIGSTOP)
    frozen_at = time.time()
    start_process(redis_url)
    eventually(lambda: len(events(client, "start")) == 2)
    report("SIGSTOP of a worker", recovery(attempts(client), frozen_at), LEASE_SECONDS + SLACK)
    thawed_at = time.time()
    frozen.send_signal(signal.SIGCONT)
    # It learns of its loss by itself: the actor is interrupted and settles nothing.
    eventually(lambda: len(events(client, "interrupted")) == 1)
    assert broker.queues_admin.contains(LANE, "acme", ["1"]) == {"1"}
    client.set("go", 1)
    eventually(lambda: is_empty(broker))
    first, second = attempts(client)
    assert second.epoch > first.epoch
    # While it was frozen nothing of it ran; from its thaw to its interruption the two overlap, and no longer.
    assert overlaps([first, second]) == [(first, second)]
    report("SIGCONT, until the late worker is interrupted", first.end - thawed_at, 1 + SLACK)
    assert broker.queues_admin.contains(LANE, "acme", ["1"]) == set()


def test_kills_in_the_middle_of_many_accounts_lose_nothing(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    total = 400
    broker.enqueue_many([note(number, f"a{number % 20}") for number in range(total)])
    start_process(redis_url, threads=4)
    died: dict[int, float] = {}
    for round_number in range(3):
        victim = start_process(redis_url, threads=4)
        wanted = (round_number + 1) * 60
        eventually(lambda wanted=wanted: len(events(client, "end")) >= wanted)  # type: ignore[misc]
        died[victim.pid] = time.time()
        victim.kill()
        victim.wait()
    eventually(lambda: is_empty(broker), 60)
    found = attempts(client, died)
    assert set(runs(found)) == set(range(total))
    assert overlaps(found) == []


def test_a_message_that_kills_its_workers_is_buried(
    broker: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.queues_admin.set_limits(LANE, "acme", QueueLimits(max_deliveries=2))
    workers = [start_process(redis_url, lease=2, threads=1) for _ in range(2)]
    deadly = Entry(dramatiq.Message(LANE, "die", (1,), {}, {"account": "acme"}), "1")
    broker.enqueue_many([deadly, note(2, "acme"), note(3, "other")])
    for worker in workers:
        assert worker.wait(timeout=PATIENCE_MS / 1000) == -signal.SIGKILL
    start_process(redis_url, lease=2, threads=1)
    eventually(lambda: {each[1] for each in events(client, "end")} == {"2", "3"})
    (buried,) = broker.queues_admin.buried(LANE)
    assert (buried.account, buried.entry_id, buried.reason) == ("acme", "1", "max_deliveries")
    assert runs(attempts(client))[1] == 2


def test_lost_answers_of_claims_and_settles_harm_nothing(
    make_broker: Callable[..., TenantBroker],
    shared_valkey: ValkeyProcess,
    client: Client,
    redis_url: str,
    start_process: StartProcess,
) -> None:
    broker, total, waves = make_broker(), 300, 20
    backlog = [note(number, f"a{number % 10}", 0.001) for number in range(total)]
    broker.enqueue_many(backlog[:-waves])
    proxy = LossyProxy(shared_valkey.port, ["claim", "settle"], every=3)
    try:
        for _ in range(2):
            start_process(proxy.url, "--events", redis_url, lease=20, extend=1, threads=2)
        eventually(lambda: is_empty(broker), 60)
        # Settles bring the next messages with them, so a backlog may need two claims in all; these need one each.
        for late in backlog[-waves:]:
            broker.enqueue_many([late])
            eventually(lambda: is_empty(broker), 60)
    finally:
        proxy.close()
    assert proxy.lost["claim"] > 0
    assert proxy.lost["settle"] > 10
    found = attempts(client)
    # Not one of them had to wait for a lease to run out, so not one ran twice.
    assert runs(found) == dict.fromkeys(range(total), 1)
    assert overlaps(found) == []
    in_order = {account: [each.number for each in found if each.account == account] for account in ("a0", "a7")}
    assert all(numbers == sorted(numbers) for numbers in in_order.values())


def test_a_cut_of_every_connection_is_survived(
    broker: TenantBroker, shared_valkey: ValkeyProcess, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    broker.enqueue_many([note(number, f"a{number % 10}", 0.02) for number in range(300)])
    proxy = LossyProxy(shared_valkey.port)
    try:
        for _ in range(2):
            start_process(proxy.url, "--events", redis_url, lease=20, extend=1, threads=2)
        eventually(lambda: len(events(client, "end")) >= 40)
        proxy.cut()
        eventually(lambda: len(events(client, "start")) == len(events(client, "end")))
        proxy.restore()
        restored_at = time.time()
        eventually(lambda: is_empty(broker), 60)
    finally:
        proxy.close()
    found = attempts(client)
    assert runs(found) == dict.fromkeys(range(300), 1)
    assert overlaps(found) == []
    # Dramatiq's worker waits three seconds before it consumes again.
    report("cut of all connections", recovery(found, restored_at), 4 + SLACK)


@pytest.mark.parametrize("keep_data", [True, False], ids=["with its data", "without its data"])
def test_a_restarted_server_is_found_again(
    tmp_path: Path, client: Client, redis_url: str, start_process: StartProcess, keep_data: bool
) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    server = start_valkey(tmp_path, *options)
    broker = TenantBroker(url=server.url)
    total = 40
    try:
        broker.enqueue_many([note(number, f"a{number % 4}", 0.03) for number in range(total)])
        start_process(server.url, "--events", redis_url, lease=20, extend=0.3)
        eventually(lambda: len(events(client, "end")) >= 6)
        server.stop()
        wait_until_still(client)
        if not keep_data:
            for file in (tmp_path / "appendonlydir").iterdir():
                file.unlink()
        before = attempts(client)
        server = start_valkey(tmp_path, *options, port=server.port)
        restarted_at = time.time()
        if not keep_data:
            # What whoever keeps the truth does: everything that is not done is sent once more.
            broker.enqueue_many([note(number, f"a{number % 4}", 0.03) for number in range(total)])
        eventually(lambda: is_empty(broker), 60)
    finally:
        broker.close()
        server.stop()
    found = attempts(client)
    assert set(runs(found)) == set(range(total))
    assert overlaps(found) == []
    if keep_data:
        assert runs(found) == dict.fromkeys(range(total), 1)
    later = found[len(before) :]
    assert min(each.epoch for each in later) > max(each.epoch for each in before)
    report(f"restart of the server, data kept: {keep_data}", recovery(found, restarted_at), 4 + SLACK)


def test_many_rescuers_at_one_instant_rescue_once(
    broker: TenantBroker, make_broker: Callable[..., TenantBroker], client: Client
) -> None:
    accounts = [f"a{number}" for number in range(40)]
    for round_number in range(5):
        broker.enqueue_many([entry(f"{round_number}", account) for account in accounts])
        hand = Hand(broker, "victim")
        assert len(hand.claim(len(accounts))) == len(accounts)
        leases = f"{broker.keys.root(LANE)}:leases"
        client.zadd(leases, dict.fromkeys(client.zrange(leases, 0, -1), 1))
        others = [Hand(make_broker(), f"w{number}") for number in range(4)]
        gate = threading.Barrier(len(others))
        counted: list[tuple[int, list[str | None]]] = []

        def rescue(
            other: Hand, gate: threading.Barrier = gate, counted: list[tuple[int, list[str | None]]] = counted
        ) -> None:
            gate.wait()
            ended = other.rescue()
            counted.append((ended, [each.account for each in other.claim(len(accounts))]))

        threads = [threading.Thread(target=rescue, args=(other,)) for other in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_MS / 1000)
        taken = [account for _, claimed in counted for account in claimed]
        assert sorted(map(str, taken)) == sorted(accounts)
        assert sum(ended for ended, _ in counted) <= len(accounts)
        assert broker.queues_admin.check(LANE) == []
        broker.flush(LANE)


def test_a_worker_outlives_its_servers_time_away(
    client: Client, redis_url: str, tmp_path: Path, start_process: StartProcess
) -> None:
    server = start_valkey(tmp_path)
    broker = TenantBroker(url=server.url)
    try:
        start_process(server.url, "--events", redis_url, lease=20, extend=1)
        broker.enqueue_once(stay(1, "acme"))
        eventually(lambda: len(events(client, "start")) == 1)
        server.process.send_signal(signal.SIGSTOP)
        client.set("go", 1)  # it ends while no settle can reach the server
        eventually(lambda: len(events(client, "end")) == 1)
        server.process.send_signal(signal.SIGCONT)
        eventually(lambda: is_empty(broker))
        broker.enqueue_once(note(2, "acme"))
        eventually(lambda: len(events(client, "end")) == 2)
    finally:
        server.process.send_signal(signal.SIGCONT)
        broker.close()
        server.stop()
    assert runs(attempts(client)) == {1: 1, 2: 1}


def test_the_judge_sees_an_overlap(client: Client, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as own:
        own.rpush("events", "start 1 acme 10 100.0 7", "start 2 acme 11 100.5 8", "end 1 acme 10 101.0 7")
    ((first, second),) = overlaps(attempts(client))
    assert (first.number, second.number) == (1, 2)
    assert overlaps(attempts(client, {7: 100.2})) == [(first, second)]
