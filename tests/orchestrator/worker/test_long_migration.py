"""A migration that writes for longer than a worker may be silent, on SQLite, where nobody can write beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text

from tenants.database.models import Worker
from tenants.database.transactions import Database
from tenants.migrations import announced
from tenants.store import workers
from tests import ROOT
from tests.crashes.installation import until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.campaign, pytest.mark.timeout(300)]

#: Longer than a worker may be silent, with the grace that its guard gives it.
HELD_SECONDS = workers.SELF_KILL_SECONDS + 4.0


@pytest.fixture
def sqlite(tmp_path: Path, sqlite_template: Path) -> Database:
    (tmp_path / "onelane.db").write_bytes(sqlite_template.read_bytes())
    return Database(f"sqlite:///{tmp_path}/onelane.db")


def test_a_worker_lives_through_it(sqlite: Database, redis_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "ONELANE_DATABASE_URL": f"sqlite:///{tmp_path}/onelane.db",
        "ONELANE_REDIS_URL": redis_url,
        "ONELANE_DATA_DIR": str(tmp_path),
        "ONELANE_SECRET_KEY": "a-secret-key-of-a-test-only",
        "PYTHONPATH": str(ROOT),
    }
    log = (tmp_path / "worker.log").open("wb")
    command = [sys.executable, "-m", "orchestrator.worker.process"]
    worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)

    def said() -> str:
        return (tmp_path / "worker.log").read_text()

    try:
        until(lambda: bool(sqlite.read(workers.live)), "the worker to register", 150, said)
        before = sqlite.read(workers.live)[0]["id"]

        def migrate(connection: Connection) -> None:
            connection.execute(text("CREATE TABLE large (id)"))
            ended = threading.Event()  # never set: the time is what a large table takes
            ended.wait(HELD_SECONDS)

        announced.run(sqlite.engine, migrate)
        assert sqlite.write(workers.declare_dead) == []
        assert [each["id"] for each in sqlite.read(workers.live)] == [before]
        # It renews by itself again, and can still be reported to leave.
        seen = heartbeat(sqlite)
        until(lambda: heartbeat(sqlite) > seen, "the worker to renew", 60, said)
        assert worker.poll() is None, said()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0, said()
    finally:
        worker.kill()
        worker.wait()
        log.close()
        sqlite.close()


def heartbeat(database: Database) -> Any:
    return database.read(lambda c: c.execute(select(func.max(Worker.__table__.c.heartbeat_at))).scalar_one())


def test_a_killed_migration_gives_the_living_their_time_and_no_more(sqlite: Database) -> None:
    """Its announcement stays, since it was committed before; a rescuer that can write again takes it away."""
    sqlite.write(lambda c: workers.register(c, id="w", host="here", pid=1, lanes=["a"], threads=1))
    with sqlite.engine.begin() as connection:
        connection.execute(text("INSERT INTO meta (key, value) VALUES (:key, '1')"), {"key": announced.KEY})
    assert sqlite.read(lambda c: workers.is_excused(c, "w"))
    assert not sqlite.read(lambda c: workers.is_excused(c, "declared dead"))
    sqlite.write(lambda c: c.execute(text("UPDATE workers SET heartbeat_at = '2026-01-01 00:00:00.000000'")))
    assert sqlite.write(workers.declare_dead) == []
    assert not sqlite.read(lambda c: workers.is_excused(c, "w"))
    assert len(sqlite.read(workers.live)) == 1, "it has its time from then on"
    sqlite.write(lambda c: c.execute(text("UPDATE workers SET heartbeat_at = '2026-01-01 00:00:00.000000'")))
    assert sqlite.write(workers.declare_dead) == ["w"]
    sqlite.close()


def test_who_was_dead_before_the_migration_stays_so(sqlite: Database) -> None:
    for name in ("living", "dead"):
        sqlite.write(lambda c, name=name: workers.register(c, id=name, host="here", pid=1, lanes=["a"], threads=1))  # type: ignore[misc]
    sqlite.write(
        lambda c: c.execute(text("UPDATE workers SET heartbeat_at = '2026-01-01 00:00:00.000000' WHERE id = 'dead'"))
    )
    announced.run(sqlite.engine, lambda connection: None)
    assert sqlite.write(workers.declare_dead) == ["dead"]
    sqlite.close()
