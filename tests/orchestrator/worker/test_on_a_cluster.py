"""The service on a cluster of Redis servers: jobs run, events are rung, and a node's death loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.control.events import CHANNEL
from tenants.migrations import migrate
from tests.orchestrator.conftest import Service, make_service
from tests.tenants.queues.clusters import Cluster

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A parameter is the node timeout in ms, for a test in which a node dies."""
    options = {"node_timeout_ms": request.param} if hasattr(request, "param") else {}
    made = Cluster(tmp_path, **options)
    yield made
    made.close()


@pytest.fixture
def service(cluster: Cluster, tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    folder = tmp_path / "data"
    (folder / "notes").mkdir(parents=True)
    made = make_service(sqlite_url, cluster.url, folder)
    migrate(made.runtime.database)
    made.loops.start()
    yield made
    made.close()


@pytest.mark.parametrize("cluster", [4000], ids=["a node dies"], indirect=True)
def test_jobs_run_on_a_cluster_also_after_the_death_of_a_node(cluster: Cluster, service: Service) -> None:
    service.work()
    assert service.run("chain")["status"] == "completed"
    lanes = service.runtime.lanes
    victim = cluster.primary_of(service.runtime.broker.keys.root(lanes[0]))
    waiting = [service.make("chain", account=f"account {number}") for number in range(8)]
    cluster.nodes[victim].stop()
    later = [service.make("chain", account=f"account {number}") for number in range(8)]
    assert [service.wait(job_id)["status"] for job_id in (*waiting, *later)] == ["completed"] * 16


def test_a_ring_reaches_every_node(cluster: Cluster, service: Service) -> None:
    received = [threading.Event() for _ in cluster.nodes]

    def listen(number: int) -> None:
        with redis.Redis(port=cluster.nodes[number].port, socket_timeout=120).pubsub() as ear:  # type: ignore[no-untyped-call]
            ear.subscribe(CHANNEL)
            for message in ear.listen():
                if message["type"] == "message":
                    received[number].set()
                    return

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(len(cluster.nodes))]
    for thread in threads:
        thread.start()

    def ring() -> bool:
        service.runtime.event_notifier.notify()  # again, because an ear may not have been there yet
        return all(each.is_set() for each in received)

    service.until(ring, "every node to report the ring")
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
