"""Settings made in SQL act in Redis, and come back after Redis was emptied."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, update

from orchestrator.dispatch import entry_of
from orchestrator.loops.reconciler import Reconciler
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.models import Account
from tenants.queues import Entry, QueueLimits
from tenants.store import queues
from tenants.store.accounts import ensure_account
from tenants.store.dispatch import Dispatch

from .conftest import Service

LIMITS = {"weight": 7, "lanes": {"quick": {"concurrency": 3, "rate": {"limit": 5, "per": 60}}}}


@pytest.fixture
def configured(service: Service) -> Runtime:
    runtime = service.runtime

    def work(connection: Connection) -> None:
        table = Account.__table__
        made: dict[str, dict[str, Any]] = {"limited": {"limits": LIMITS}, "held": {"status": "suspended"}}
        for account, values in made.items():
            ensure_account(connection, account)
            connection.execute(update(table).where(table.c.id == account).values(**values))
        queues.set_paused(connection, "quick", "queue paused", True)

    runtime.database.write(work)
    return runtime


def test_settings_survive_the_loss_of_redis(configured: Runtime) -> None:
    settings: Settings = configured.settings
    with contextlib.closing(redis.Redis.from_url(str(settings.redis_url))) as client:
        client.flushall()
    Reconciler(configured).run_once()
    for account in ("limited", "held", "queue paused"):
        configured.broker.enqueue_once(_entry(account))
    described = {a: configured.broker.queues_admin.describe("quick", a) for a in ("limited", "held", "queue paused")}
    limited, held, paused = (described[a] for a in ("limited", "held", "queue paused"))
    assert limited is not None
    assert held is not None
    assert paused is not None
    assert (limited.limits.weight, limited.limits.concurrency, limited.paused) == (7, 3, False)
    assert limited.limits.rate is not None
    assert (limited.limits.rate.limit, limited.limits.rate.per) == (5, 60.0)
    assert (held.paused, paused.paused) == (True, True)
    assert held.limits == QueueLimits()


def test_a_resumed_account_is_carried(configured: Runtime) -> None:
    configured.queue_settings.carry_account("held")
    configured.broker.enqueue_once(_entry("held"))
    table = Account.__table__
    configured.database.write(lambda c: c.execute(update(table).where(table.c.id == "held").values(status="active")))
    assert configured.queue_settings.carry_account("held")
    described = configured.broker.queues_admin.describe("quick", "held")
    assert described is not None
    assert not described.paused


def _entry(account: str) -> Entry:
    step = Dispatch(f"step of {account}", account, "quick", "quick", "quick", 5, 1, None)
    return entry_of(step, datetime.now(UTC))
