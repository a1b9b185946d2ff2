"""The broker on a real cluster of six processes, and on a primary whose replica is promoted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from dramatiq.errors import ConnectionClosed
from redis.sentinel import Sentinel

from tenants.queues import QueueLimits, SlotMoved, TenantBroker, UnsupportedServer
from tenants.queues.keys import LANE_KEYS, shard_of, token
from tenants.queues.layouts import CarriedOver
from tenants.queues.limits import StoredSettings
from tenants.queues.lua import Script, script, verbs
from tenants.queues.server import Call, Server
from tests.support.servers import start_valkey
from tests.tenants.queues.clusters import Cluster, raw, start_sentinel, until
from tests.tenants.queues.conftest import eventually
from tests.tenants.queues.lanes import LANE, Client, Hand, entry
from tests.tenants.queues.observed import attempts, events, overlaps, recovery, report, runs
from tests.tenants.queues.processes import StartProcess, is_empty, note

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

SHARDS = 6
MORE = 24
ACCOUNTS = [f"a{number}" for number in range(24)]


def send_more(broker: TenantBroker, first: int) -> None:
    """One more message for each account, so that there is something to start once the failover is over."""
    for number in range(MORE):
        # One by one: a batch of which a part failed would be sent again whole.
        until(lambda number=number: broker.enqueue_many([note(first + number, f"a{number % 24}", 0.01)]) >= 0)  # type: ignore[misc]


def fail_over(replica: Any) -> bool:
    """Whether it is a primary by now. The servers give a failover by hand five seconds; then it has to be asked for."""
    if replica.info("replication")["role"] == "master":
        return True
    with contextlib.suppress(redis.ResponseError):  # it has become one meanwhile
        replica.execute_command("CLUSTER", "FAILOVER")
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        if replica.info("replication")["role"] == "master":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def on_cluster(cluster: Cluster) -> Iterator[TenantBroker]:
    for client in cluster.clients[:3]:
        client.flushall()
    broker = TenantBroker(url=cluster.url, shards=SHARDS, lease_seconds=8, extend_seconds=1)
    yield broker
    broker.close()


def test_every_script_keeps_to_one_slot(
    cluster: Cluster, on_cluster: TenantBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[str] = set()
    run, run_many = Server.run, Server.run_many

    def note_verb(self: Server, script: Script, root: str, *arguments: Any) -> Any:
        used.add(script.name)
        return run(self, script, root, *arguments)

    def note_verbs(self: Server, calls: Sequence[Call]) -> list[Any]:
        used.update(call.script.name for call in calls)
        return run_many(self, calls)

    monkeypatch.setattr(Server, "run", note_verb)
    monkeypatch.setattr(Server, "run_many", note_verbs)
    admin = on_cluster.queues_admin
    assert on_cluster.enqueue_many(entry(str(n), account) for account in ACCOUNTS for n in range(4)) == 96
    admin.set_limits(LANE, "a0", QueueLimits(weight=2))
    admin.set_lane_limits(LANE, 1000)
    hand = Hand(on_cluster)
    for account in ACCOUNTS:
        hand.root = on_cluster.keys.root(LANE, shard_of(token(account), SHARDS))
        leases = hand.claim(10)
        assert hand.extend(*leases) == ([], 0)
        for lease in leases:
            assert hand.reschedule(lease, 0)
            hand.settle(lease, "retry")
            assert hand.settled
        hand.give_back(*hand.claim(1))
        hand.settle(hand.claim(1)[0], "bury")
        hand.rescue()
        hand.server.run(script("ring"), hand.root)
    hand.claim(1)
    (held,) = [page for page in admin.entries(LANE) if page.leases]
    assert admin.release(LANE, held.account, held.leases) == 1
    assert admin.describe(LANE, "a0") is not None
    assert len(admin.list_queues(LANE, limit=100)[0]) == len(ACCOUNTS)
    admin.position(LANE, "a0", "1")
    admin.contains(LANE, "a0", ["1"])
    assert admin.totals(LANE).queues == len(ACCOUNTS)
    admin.heaviest(LANE)
    admin.explain(LANE, "a0", "1")
    assert "state" in admin.traces(LANE, "a0")
    assert admin.check(LANE) == []
    assert admin.check_damaged(LANE) == []
    assert admin.missing(LANE, [("a0", "1"), ("a0", "unknown")])[1] == []
    assert on_cluster.check_health().faults == {}
    buried = admin.buried(LANE)
    assert len(buried) == len(ACCOUNTS)
    assert admin.take_buried(LANE, [each.buried_id for each in buried]) == len(ACCOUNTS)
    # Whose messages were buried is a matter of turns, and those of the time that each took.
    left = 4 - sum(each.account == "a0" for each in buried)
    assert len(admin.remove(LANE, "a0", ["0", "1", "2", "3"])) == left
    for account in ACCOUNTS[1:]:
        admin.purge(LANE, account)
    admin.delete(LANE, "a0")
    admin.reap(0)
    on_cluster.flush(LANE)
    old = on_cluster.keys.root(LANE, shard_of(token("a0"), SHARDS), layout=1)
    on_cluster.server.command("SADD", on_cluster.keys.lanes_of(1), LANE)
    on_cluster.server.command("HSET", f"{old}:entries:@a0", "old", b"1:1:0:message")
    assert on_cluster.layouts.carry_over() == CarriedOver(1, 0)
    on_cluster.flush(LANE)
    assert admin.set_settings(LANE, {"a0": StoredSettings.decode(None)}) == 1
    assert used == set(verbs())


@pytest.mark.parametrize("verb", verbs())
def test_every_script_touches_its_keys_before_it_writes(verb: str) -> None:
    text = script(verb).guarded.text
    touch = text.index("redis.call('EXISTS', R, R .. ':ready'")
    assert text.count("\nredis.call('EXISTS', R, R .. ':ready'") == 1
    assert "redis.call" not in text[:touch].replace("-- ", "")
    assert all(f"R .. '{suffix}'" in text[touch : text.index("\n", touch)] for suffix, _ in LANE_KEYS.values())


def test_what_the_url_says_holds_for_every_node(cluster: Cluster, on_cluster: TenantBroker) -> None:
    broker = TenantBroker(url=f"{cluster.url}/0?socket_timeout=17&client_name=50%25", shards=SHARDS)
    broker.check_server()
    nodes = broker.server.nodes  # type: ignore[attr-defined]
    assert len(nodes) >= 3
    for node in nodes.values():
        known = node.client.connection_pool.connection_kwargs
        assert (known["socket_timeout"], known["client_name"]) == (17, "50%")
    broker.close()


def test_a_script_does_nothing_while_its_slot_is_moving(cluster: Cluster, on_cluster: TenantBroker) -> None:
    on_cluster.enqueue_many(entry(str(n), account) for account in ACCOUNTS for n in range(3))
    hand = Hand(on_cluster)
    hand.root = on_cluster.keys.root(LANE, 0)
    (lease,) = hand.claim(1)
    here = cluster.primary_of(hand.root)
    there = (here + 1) % 3
    source, target = cluster.clients[here], cluster.clients[there]
    slot = source.execute_command("CLUSTER", "KEYSLOT", hand.root)
    ids = [client.execute_command("CLUSTER", "MYID").decode() for client in (source, target)]
    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    keys = raw(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
    # Half of the lane has gone, its root is still here: the scripts could begin, and could not end.
    gone = [key for key in keys if b":queue:" in key or b":waiting:" in key]
    raw(source, "MIGRATE", "127.0.0.1", cluster.nodes[there].port, "", 0, 5000, "KEYS", *gone)
    left = {key: source.dump(key) for key in keys if key not in gone}
    account = next(each for each in ACCOUNTS if shard_of(token(each), SHARDS) == 0)
    for attempt in (
        lambda: hand.claim(1),
        lambda: hand.settle(lease),
        lambda: hand.extend(lease),
        lambda: hand.give_back(lease),
        lambda: on_cluster.enqueue_once(entry("new", account)),
        lambda: on_cluster.queues_admin.purge(LANE, account),
        lambda: on_cluster.queues_admin.check(LANE),
    ):
        with pytest.raises(ConnectionClosed):
            attempt()
    assert {key: source.dump(key) for key in left} == left
    raw(source, "MIGRATE", "127.0.0.1", cluster.nodes[there].port, "", 0, 5000, "KEYS", *left)
    for client in (target, source):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    hand.settle(lease)
    assert hand.settled
    assert on_cluster.enqueue_once(entry("new", account))
    assert on_cluster.queues_admin.check(LANE) == []


def test_a_failover_by_hand_breaks_no_promise(
    cluster: Cluster, on_cluster: TenantBroker, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    total = 600
    on_cluster.enqueue_many(note(number, f"a{number % 24}", 0.03) for number in range(total))
    for _ in range(2):
        start_process(cluster.url, "--events", redis_url, "--shards", str(SHARDS), lease=30, extend=1, threads=4)
    eventually(lambda: len(events(client, "end")) >= 60)
    primary = cluster.primary_of(on_cluster.keys.root(LANE, 0))
    replica = next(
        each
        for each in cluster.clients
        if each.info("replication")["role"] == "slave"
        and each.info("replication")["master_port"] == cluster.nodes[primary].port
    )
    begun_at = time.time()
    until(lambda: fail_over(replica))
    send_more(on_cluster, total)
    until(lambda: is_empty(on_cluster), 60)
    found = attempts(client)
    assert runs(found) == dict.fromkeys(range(total + MORE), 1)
    assert overlaps(found) == []
    moved = {account for account in ACCOUNTS if shard_of(token(account), SHARDS) == 0}
    report("failover of a cluster's node by hand", recovery(found, begun_at, moved), 20)
    assert on_cluster.queues_admin.check(LANE) == []


def test_a_killed_primary_of_the_cluster_is_made_good(
    tmp_path: Path, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    cluster = Cluster(tmp_path, node_timeout_ms=4000)
    broker = TenantBroker(url=cluster.url, shards=SHARDS)
    total = 600
    try:
        broker.enqueue_many(note(number, f"a{number % 24}", 0.03) for number in range(total))
        for _ in range(2):
            start_process(cluster.url, "--events", redis_url, "--shards", str(SHARDS), lease=8, extend=1, threads=4)
        eventually(lambda: len(events(client, "end")) >= 60)
        root = broker.keys.root(LANE, 0)
        holders = [cluster.primary_of(broker.keys.root(LANE, number)) for number in range(SHARDS)]
        victim = holders[0]
        killed_at = time.time()
        cluster.nodes[victim].stop()
        until(lambda: cluster.primary_of(root) != victim)
        send_more(broker, total)
        until(lambda: is_empty(broker), 60)
        assert broker.queues_admin.check(LANE) == []
        # On a starved machine the nodes may take one more for dead; what its replica lacked is lost as well.
        after = [cluster.primary_of(broker.keys.root(LANE, number)) for number in range(SHARDS)]
    except ConnectionClosed as error:
        raise AssertionError("the broker did not find the new primary") from error
    finally:
        broker.close()
        cluster.close()
    found = attempts(client)
    held = {number for number in range(SHARDS) if holders[number] != after[number]}
    assert {number for number in range(SHARDS) if holders[number] == victim} <= held
    moved = {account for account in ACCOUNTS if shard_of(token(account), SHARDS) in held}
    assert set(runs(found)) == set(range(total + MORE))
    # What the dead primary acknowledged and had not passed on is claimed again: replication is asynchronous.
    assert {second.account for _, second in overlaps(found)} <= moved
    twice = [number for number, count in runs(found).items() if count > 1 and f"a{number % 24}" not in moved]
    assert twice == [], f"lanes {sorted(held)} moved"
    report("death of a cluster's primary", recovery(found, killed_at, moved), 30)


def test_a_promoted_replica_goes_on_where_the_primary_was(
    tmp_path: Path, client: Client, redis_url: str, start_process: StartProcess
) -> None:
    for name in ("primary", "replica", "sentinel"):
        (tmp_path / name).mkdir()
    primary = start_valkey(tmp_path / "primary", "--repl-diskless-sync-delay", "0")
    replica = start_valkey(tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}")
    promoted = redis.Redis(port=replica.port)
    until(lambda: promoted.info("replication")["master_link_status"] == "up")
    sentinel = start_sentinel(tmp_path / "sentinel", primary, "lanes")
    untyped: Any = Sentinel
    watcher = untyped([("127.0.0.1", sentinel.port)], socket_timeout=5)
    broker = TenantBroker(client=watcher.master_for("lanes", socket_timeout=5, socket_connect_timeout=5))
    total = 300
    try:
        broker.enqueue_many(note(number, f"a{number % 12}", 0.05) for number in range(total))
        for _ in range(2):
            start_process(
                primary.url, "--events", redis_url, "--sentinel", str(sentinel.port), lease=8, extend=1, threads=4
            )
        eventually(lambda: len(events(client, "end")) >= 40)
        killed_at = time.time()
        primary.stop()
        until(lambda: promoted.info("replication")["role"] == "master")
        send_more(broker, total)
        until(lambda: is_empty(broker), 60)
        assert broker.queues_admin.check(LANE) == []
    finally:
        broker.close()
        promoted.close()
        for server in (sentinel, replica, primary):
            server.stop()
    found = attempts(client)
    assert set(runs(found)) == set(range(total + MORE))
    assert all(first.start > killed_at - 1 for first, _ in overlaps(found))
    report("promotion of a replica", recovery(found, killed_at + 0.1) + 0.1, 30)


def test_a_lone_node_of_a_cluster_is_named_for_what_it_is(cluster: Cluster) -> None:
    broker = TenantBroker(url=cluster.nodes[0].url, shards=SHARDS)
    with pytest.raises(UnsupportedServer, match=r"redis\+cluster://"):
        broker.check_server()
    with pytest.raises(SlotMoved, match=r"redis\+cluster://"):
        broker.enqueue_many(entry("1", account) for account in ACCOUNTS)
    broker.close()
