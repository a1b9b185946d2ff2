"""Redis loses single keys while jobs wait and run: every accepted job finishes within a minute, and P1 holds.

The scripts, Redis, SQL and the loops are real. A step's run is two calls here, its start and its completion, and time
is what the machine says: a round of the loops is two seconds, by which leases, backoffs and queueing times grow older.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Connection, select, update

from orchestrator.loops.gauges import GaugeLoop
from orchestrator.loops.reconciler import Reconciler
from orchestrator.loops.settings_sync import SettingsSyncLoop
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Account, Step, Worker
from tenants.store import dispatch, workers
from tenants.store.accounts.accounts import ensure_account
from tenants.store.attempt import OwnedAttempt, Refused
from tenants.store.job_store import job_store
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.conftest import make_service
from tests.tenants.queues.damage import Damage, How
from tests.tenants.queues.lanes import Hand, Lease

LANE = "quick"
#: Account → concurrency of its tenant queue.
CONCURRENCY = {"a": 1, "b": 2, "c": 3}
MINUTE_SECONDS, ROUND_SECONDS = 60, 2
accounts = st.sampled_from(sorted(CONCURRENCY))
numbers = st.integers(0, 1000)
hows: st.SearchStrategy[How] = st.sampled_from(["delete", "delete", "truncate", "restore", "restore"])


class World:
    """One installation without processes: what workers do is done by the machine."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.client: Any = redis.Redis.from_url(str(runtime.settings.redis_url))
        self.reconciler = Reconciler(runtime)
        self.reconciler.sent_seconds = -ROUND_SECONDS  # nothing else sends what was lost
        self.loops = (self.reconciler, GaugeLoop(runtime), SettingsSyncLoop(runtime))
        self.examples = 0
        runtime.database.write(self._prepare)

    @staticmethod
    def _prepare(connection: Connection) -> None:
        for name in ("w1", "w2"):
            workers.register(connection, id=name, host="here", pid=1, lanes=[LANE], threads=9)
        connection.execute(update(Worker.__table__).values(heartbeat_at=db_now(86_400)))

    def begin(self) -> str:
        """An empty Redis, rebuilt; what the accounts' names of this example begin with."""
        self.examples += 1
        prefix = f"{self.examples}-"
        self.client.flushall()

        def limit(connection: Connection) -> None:
            table = Account.__table__
            for name, concurrency in CONCURRENCY.items():
                ensure_account(connection, prefix + name)
                limits = {"lanes": {LANE: {"concurrency": concurrency}}}
                connection.execute(update(table).where(table.c.id == prefix + name).values(limits=limits))

        self.runtime.database.write(limit)
        self.reconciler.run_once()
        return prefix

    def make(self, account: str) -> str:
        """A job whose step was sent, and is known to have been."""
        made, _ = self.runtime.jobs.create(account, JobPlan("quick", {"do": "return"}))
        step_id = str(made["steps"][0]["id"])
        self.runtime.database.write(lambda connection: dispatch.mark_dispatched(connection, [step_id]))
        return step_id

    def unfinished(self, prefix: str) -> list[str]:
        table = Step.__table__
        wanted = select(table.c.id).where(table.c.account.startswith(prefix), table.c.status != "completed")
        return list(self.runtime.database.read(lambda connection: connection.execute(wanted).scalars().all()))

    def close(self) -> None:
        self.client.close()


class LostKeys(RuleBasedStateMachine):
    """Set by the test: the installation."""

    world: World

    @initialize(made=st.lists(accounts, min_size=3, max_size=8))
    def start(self, made: list[str]) -> None:
        self.prefix = self.world.begin()
        self.damage = Damage(self.world.client, "onelane:")
        self.hands = [Hand(self.world.runtime.broker, worker=f"{name}.1", lane=LANE) for name in ("w1", "w2")]
        self.running: list[tuple[Hand, Lease, OwnedAttempt]] = []
        for account in made:
            self.world.make(self.prefix + account)

    @rule(account=accounts)
    def make(self, account: str) -> None:
        self.world.make(self.prefix + account)

    @rule(which=st.integers(0, 1), number=st.integers(1, 4))
    def work(self, which: int, number: int) -> None:
        self.take(self.hands[which], number)

    def take(self, hand: Hand, number: int) -> int:
        claimed = hand.claim(number)
        for lease in claimed:
            started = job_store(self.world.runtime.database).start(lease.id, worker_id=hand.worker[:2], slot=lease.slot)
            if isinstance(started, OwnedAttempt):
                self.running.append((hand, lease, started))
            elif isinstance(started, Refused):
                hand.settle(lease, "retry", delay_ms=1000)
            else:
                hand.settle(lease)
        for account, concurrency in CONCURRENCY.items():
            assert sum(owned.account == self.prefix + account for _, _, owned in self.running) <= concurrency
        return len(claimed)

    @rule(which=numbers)
    def finish(self, which: int) -> None:
        for hand, lease, owned in self.running[which % max(1, len(self.running)) :][:1]:
            job_store(self.world.runtime.database).complete(owned, {})
            hand.settle(lease)
            self.running.remove((hand, lease, owned))

    # Hypothesis takes rules without arguments far more often than others.
    @rule(_=numbers)
    def copy(self, _: int) -> None:
        self.damage.copy()

    @rule(losses=st.lists(st.tuples(numbers, hows), min_size=1, max_size=6))
    def lose(self, losses: list[tuple[int, How]]) -> None:
        for which, how in losses:
            keys = self.damage.keys()
            if keys:
                self.damage.do(keys[which % len(keys)], how)

    @rule(rounds=st.integers(1, 2))
    def some_time_passes(self, rounds: int) -> None:
        for _ in range(rounds):
            self.run_round()

    def run_round(self) -> None:
        """Two seconds: workers extend, leases and delays grow older, each loop runs once."""
        client, root = self.world.client, self.hands[0].root
        for hand in self.hands:
            hand.extend(*(lease for each, lease, _ in self.running if each is hand))
        for key in (f"{root}:leases", *client.scan_iter(f"{root}:delayed:*"), f"{root}:timers"):
            for member in client.zrange(key, 0, -1):
                client.zincrby(key, -1000 * ROUND_SECONDS, member)
        for loop in self.world.loops:
            loop.run_once()

    def teardown(self) -> None:
        if not hasattr(self, "prefix"):
            return
        for _ in range(MINUTE_SECONDS // ROUND_SECONDS):
            while self.running:
                self.finish(0)
            if not self.world.unfinished(self.prefix):
                break
            self.run_round()
            while any(self.take(hand, 4) for hand in self.hands) and self.running:
                self.finish(0)
        left = self.world.unfinished(self.prefix)
        assert left == [], f"{len(left)} accepted job(s) did not finish within a minute"


@pytest.fixture
def world(redis_url: str, sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    database = tmp_path / "onelane.db"
    database.write_bytes(Path(sqlite_template).read_bytes())
    service = make_service(f"sqlite:///{database}", redis_url, tmp_path)
    made = World(service.runtime)
    yield made
    made.close()
    service.runtime.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_accepted_job_finishes_whatever_keys_are_lost(world: World) -> None:
    machine = type("Machine", (LostKeys,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
