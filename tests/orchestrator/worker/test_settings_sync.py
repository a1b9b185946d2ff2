"""Settings made in SQL act in Redis, and come back after Redis was emptied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from dramatiq.errors import ConnectionClosed
from sqlalchemy import Connection, update

from orchestrator.control.dispatch import entry_of
from orchestrator.control.settings_sync import SettingsSync
from orchestrator.loops.reconciler import Reconciler
from orchestrator.loops.settings_sync import SettingsSyncLoop
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.database.models import Account
from tenants.queues import Entry, QueueLimits, StoredSettings
from tenants.store.accounts import queues
from tenants.store.accounts.accounts import ensure_account
from tenants.store.dispatch import Dispatch
from tests.orchestrator.conftest import Service

LIMITS = {"weight": 7, "lanes": {"quick": {"concurrency": 3, "rate": {"limit": 5, "per": 60}}}}


@pytest.fixture
def configured(service: Service) -> Runtime:
    """Some settings, in SQL alone; nothing but the test carries them."""
    runtime = service.runtime
    service.loops.stop()

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
    configured.settings_sync.sync_account("held")
    configured.broker.enqueue_once(_entry("held"))
    _set_status(configured, "held", "active")
    assert configured.settings_sync.sync_account("held")
    assert not _is_paused(configured, "held")


def test_a_setting_that_could_not_be_written_to_redis_is_written_later(
    configured: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was away for a moment and has lost nothing, so there is no rebuild that would carry it."""
    settings, admin = configured.settings_sync, configured.broker.queues_admin
    settings.sync_account("held")
    configured.broker.enqueue_once(_entry("held"))

    def away(*_: Any) -> int:
        raise ConnectionClosed("Redis is away")  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patch:
        patch.setattr(admin, "set_settings", away)
        _set_status(configured, "held", "active")
        assert not settings.sync_account("held")
        with pytest.raises(ConnectionClosed):
            settings.retry_failed()
    assert _is_paused(configured, "held")
    settings.retry_failed()
    assert not _is_paused(configured, "held")


def test_a_setting_that_nobody_carried_is_found(configured: Runtime) -> None:
    """The process died after the commit. Once SQL has the setting and Redis has not, once the other way round."""
    loop = SettingsSyncLoop(configured)
    configured.settings_sync.sync_all()
    for account in ("held", "limited"):
        configured.broker.enqueue_once(_entry(account))
    _set_status(configured, "held", "active")
    _set_status(configured, "limited", "suspended")
    _until(lambda: not _is_paused(configured, "held") and _is_paused(configured, "limited"), loop)


def test_whoever_carries_an_old_setting_last_sees_it(configured: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process reads SQL, is slow, and writes to Redis after the account was resumed and carried."""
    other = SettingsSync(configured.database, configured.broker, configured.lanes)
    admin = configured.broker.queues_admin
    set_settings = admin.set_settings
    configured.broker.enqueue_once(_entry("held"))

    def overtaken(lane: str, settings: Mapping[str, StoredSettings]) -> int:
        monkeypatch.setattr(admin, "set_settings", set_settings)
        _set_status(configured, "held", "active")
        assert configured.settings_sync.sync_account("held")
        return set_settings(lane, settings)

    monkeypatch.setattr(admin, "set_settings", overtaken)
    assert other.sync_account("held")
    assert not _is_paused(configured, "held")


def _set_status(runtime: Runtime, account: str, status: str) -> None:
    table = Account.__table__
    runtime.database.write(lambda c: c.execute(update(table).where(table.c.id == account).values(status=status)))


def _is_paused(runtime: Runtime, account: str) -> bool:
    described = runtime.broker.queues_admin.describe("quick", account)
    assert described is not None
    return described.paused


def _until(condition: Callable[[], bool], loop: SettingsSyncLoop) -> None:
    """Within two cycles of the loop, each of which is a few pages here."""
    for _ in range(20):
        loop.run_once()
        if condition():
            return
    raise AssertionError("the loop did not correct it")


def _entry(account: str) -> Entry:
    step = Dispatch(f"step of {account}", account, "quick", "quick", "quick", 5, 1, None)
    return entry_of(step, datetime.now(UTC))
