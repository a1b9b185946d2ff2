"""A data directory whose disk fills up: the service says so, and goes on by itself once there is room again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.client import OnelaneClientError
from tests.support.running import START_SECONDS, start_up, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.campaign, pytest.mark.timeout(700)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "onelane-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (this needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(b"x" * size)


def test_the_worker_comes_back_by_itself_when_there_is_room(small_disk: Path, tmp_path: Path, redis_url: str) -> None:
    data = small_disk / "data"
    up = start_up(data, tmp_path / "up.log", {"ONELANE_REDIS_URL": redis_url})
    try:
        wait_for("up is ready", up.ready, seconds=START_SECONDS, running=up)
        with up.client() as client, contextlib.closing(sqlite3.connect(data / "onelane.db")) as reader:
            first = client.workers()[0]["id"]
            # While somebody reads, SQLite's log is not begun anew: each write needs room.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchall()
            fill(small_disk / "ballast")
            wait_for("it says so", lambda: client.ready()["parts"]["database"] == "degraded", running=up)
            assert client.ready()["reasons"]["database"].startswith("disk_full: ")
            with pytest.raises(OnelaneClientError, match="the database's disk is full"):
                client.jobs.create("acme", "echo", {"word": "too late"})
            wait_for(
                "the worker ends itself", lambda: first in up.output() and "ends itself" in up.output(), running=up
            )
            reader.rollback()
            (small_disk / "ballast").unlink()
            wait_for("all is well again", lambda: client.ready()["status"] == "ok", seconds=180, running=up)
            job = client.jobs.create("acme", "echo", {"word": "in time"})
            wait_for("it is done", lambda: client.jobs.get(job["id"])["status"] == "completed", running=up)
            assert first not in {each["id"] for each in client.workers()}
    finally:
        up.stop()
