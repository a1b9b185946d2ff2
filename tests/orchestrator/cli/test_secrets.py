"""`onelane secrets rotate` as a process: killed in the middle, and run again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from tenants.database.columns import db_now
from tenants.database.models import Session
from tenants.database.transactions import Database
from tenants.secrets.key_rotation import Tally, tally
from tenants.secrets.sealing import Sealer, new_key
from tenants.secrets.sessions import Sessions
from tests import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

NUMBER = 1500
OLD, NEW = new_key(), new_key()


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    opened = Database(migrated_url)
    yield opened
    opened.close()


def rotate(migrated_url: str, folder: Path) -> subprocess.Popen[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ONELANE_")},
        "ONELANE_DATABASE_URL": migrated_url,
        "ONELANE_DATA_DIR": str(folder),
        "ONELANE_SECRET_KEY": f"{NEW},{OLD}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "secrets", "rotate"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_one_that_was_killed_loses_nothing_and_is_finished_by_the_next(
    database: Database, migrated_url: str, tmp_path: Path
) -> None:
    before, both, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])
    rows = [
        {
            "account": f"account {number}",
            "status": "ready",
            "storage_state": before.seal({"n": number}, account=f"account {number}", purpose="storage state"),
        }
        for number in range(NUMBER)
    ]
    database.write(lambda c: c.execute(insert(Session.__table__).values(updated_at=db_now()), rows))

    first = rotate(migrated_url, tmp_path)
    assert first.stdout is not None
    assert "sealed again" in first.stdout.readline()
    first.kill()
    first.wait(timeout=60)
    first.stdout.close()

    found = tally(database, both)["sessions.storage_state"]
    assert (found.newest + found.older, found.unknown) == (NUMBER, 0)
    assert found.newest > 0
    opened = [Sessions(database, both).load(f"account {number}") for number in range(0, NUMBER, 100)]
    assert [each and each.storage_state for each in opened] == [{"n": number} for number in range(0, NUMBER, 100)]

    second = rotate(migrated_url, tmp_path)
    reported, _ = second.communicate(timeout=120)
    assert second.returncode == 0, reported
    assert tally(database, after)["sessions.storage_state"] == Tally(newest=NUMBER)
