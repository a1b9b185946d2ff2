"""A process that starts before its servers waits for them, with one line, and does not end."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.availability import StoppedWaiting, when_available
from tenants.database.transactions import Database
from tenants.errors import Unavailable
from tenants.migrations import migrate
from tenants.store import workers
from tests import ROOT
from tests.crashes.installation import until
from tests.support.servers import free_port, start_valkey

SECRET = "a" * 43 + "="


def test_a_call_is_made_again_until_the_server_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.availability.FIRST_PAUSE_SECONDS", 0.01)
    faults = [Unavailable("nobody answers"), Unavailable("nobody answers"), Unavailable("it starts up")]

    def ask() -> str:
        if faults:
            raise faults.pop(0)
        return "here"

    with caplog.at_level(logging.INFO):
        assert when_available(ask) == "here"
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(": ")[2] for line in lines] == ["nobody answers", "it starts up", ""]


def test_who_waits_can_be_stopped() -> None:
    stopping = threading.Event()
    stopping.set()

    def ask() -> None:
        raise Unavailable("nobody answers")

    with pytest.raises(StoppedWaiting, match="nobody answers"):
        when_available(ask, stopping)


@pytest.mark.processes
@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_worker_waits_for_redis(tmp_path: Path) -> None:
    url, port = f"sqlite:///{tmp_path}/onelane.db", free_port()
    database = Database(url)
    migrate(database)
    environment = {
        "ONELANE_DATABASE_URL": url,
        "ONELANE_REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "ONELANE_DATA_DIR": str(tmp_path / "data"),
        "ONELANE_SECRET_KEY": SECRET,
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path / "worker.log"
    (tmp_path / "data").mkdir()
    with log.open("ab") as file:
        command = [sys.executable, "-m", "orchestrator.worker.process"]
        worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=file, stderr=file)
    try:
        until(lambda: "not started yet" in log.read_text() or worker.poll() is not None, "its line", 150, log.read_text)
        assert worker.poll() is None, log.read_text()
        valkey = start_valkey(tmp_path, port=port)
        try:
            until(lambda: bool(database.read(workers.live)), "the worker to serve", 150, log.read_text)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(90) == 0
        finally:
            valkey.stop()
    finally:
        worker.kill()
        worker.wait()
        database.close()
    assert log.read_text().count("not started yet") == 1
    assert "Traceback" not in log.read_text()
