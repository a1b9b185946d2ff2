"""Data of another release: an older one is waited for or brought up to date, a newer one is refused with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.local.data_folder import DataFolder, FolderUnusable
from orchestrator.local.schema import bring_up_to_date, is_surely_up_to_date, missing_revisions
from tenants.database.transactions import Database
from tenants.errors import SecretsError
from tenants.migrations import migrate
from tenants.secrets.sealing import Sealer, new_key
from tenants.store import meta, protocol, workers
from tenants.store.protocol import NewerRelease
from tests import ROOT
from tests.crashes.installation import until

Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def opened(migrated_url: str) -> Iterator[Database]:
    made = Database(migrated_url)
    yield made
    made.close()


def test_a_schema_that_a_newer_release_extended_is_left_as_it_is(opened: Database, migrated_url: str) -> None:
    """Its migrations are made so that the release before can work on; before, this said that all migrations lacked."""
    opened.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    assert missing_revisions(opened) == []
    assert bring_up_to_date(migrated_url) == []
    migrate(opened)
    assert opened.read(lambda c: c.execute(text("SELECT version_num FROM alembic_version")).scalar_one()) == "9999"


def test_data_of_a_newer_protocol_are_refused_with_a_sentence(opened: Database, migrated_url: str) -> None:
    assert is_surely_up_to_date(migrated_url) == migrated_url.startswith("sqlite")
    opened.write(lambda c: meta.put(c, "protocol", str(protocol.PROTOCOL + 1)))
    assert not is_surely_up_to_date(migrated_url)
    with pytest.raises(NewerRelease, match="belong to a newer release of onelane"):
        missing_revisions(opened)
    with pytest.raises(NewerRelease, match="belong to a newer release of onelane"):
        bring_up_to_date(migrated_url)
    opened.write(protocol.take_over)
    assert opened.read(protocol.of) == protocol.PROTOCOL + 1, "a larger one stays"


def test_a_data_directory_of_another_form_is_refused(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.create()
    with folder.claimed():
        assert (folder.path / "format").read_text() == "1\n"
    folder.create()
    (folder.path / "format").write_text("2\n")
    with pytest.raises(FolderUnusable, match="the layout of another release"):
        folder.create()


def test_a_sealed_value_of_another_form_is_named_as_that() -> None:
    sealer = Sealer([new_key()])
    sealed = sealer.seal({"a": 1}, account="acme", purpose="session")
    with pytest.raises(SecretsError, match="the form of another release"):
        sealer.open(b"\x02" + sealed[1:], account="acme", purpose="session")


@pytest.fixture
def start_worker(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "ONELANE_DATABASE_URL": sqlite_url,
            "ONELANE_REDIS_URL": redis_url,
            "ONELANE_DATA_DIR": str(tmp_path),
            "ONELANE_SECRET_KEY": "a-secret-key-of-a-test-only",
            "PYTHONPATH": str(ROOT),
        }
        with (tmp_path / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "orchestrator.cli", "work"]
            started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_waits_for_its_schema_and_stops_for_a_newer_release(
    sqlite_url: str, start_worker: Start, tmp_path: Path
) -> None:
    def said() -> str:
        return (tmp_path / "worker.log").read_text()

    worker = start_worker()
    until(lambda: "waiting for `onelane migrate`" in said(), "the worker to say that it waits", 150, said)
    database = Database(sqlite_url)
    migrate(database)

    def live() -> Any:
        return database.read(workers.live)

    until(lambda: len(live()) == 1, "the worker to begin", 150, said)
    database.write(lambda c: meta.put(c, "protocol", str(protocol.PROTOCOL + 1)))
    assert worker.wait(timeout=150) == 0, said()
    assert "belong to a newer release of onelane" in said()
    assert live() == []
    again = start_worker()
    assert again.wait(timeout=150) not in (0, -signal.SIGKILL)
    assert "Traceback" not in said()
    database.close()
