"""`onelane up` and the commands that speak to it: real processes, started once for the module."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cli.app import run
from tests import ROOT
from tests.support.running import START_SECONDS, RunningUp, environment, gone, start_up, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(700)]

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    folder = tmp_path_factory.mktemp("up")
    running = start_up(folder / "data", folder / "up.log")
    try:
        wait_for("up is ready", running.ready, seconds=START_SECONDS, running=running)
        yield running
    finally:
        running.stop()


@pytest.fixture
def command(up: RunningUp, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command against the service; gives back what `--json` printed."""

    def call(*arguments: str, status: int = 0, data_dir: Path = up.data_dir) -> Any:
        capsys.readouterr()
        ended = run([*arguments, "--data-dir", str(data_dir), "--json"])
        captured = capsys.readouterr()
        assert ended == status, captured.err
        return json.loads(captured.out) if captured.out else captured.err

    return call


def test_keys_are_made_and_nobody_else_can_read_them(up: RunningUp) -> None:
    for name in ("admin.key", "secret.key"):
        assert stat.S_IMODE((up.data_dir / name).stat().st_mode) == 0o600
        assert len((up.data_dir / name).read_text().strip()) >= 40
    assert stat.S_IMODE(up.data_dir.stat().st_mode) == 0o700
    secret = (up.data_dir / "secret.key").read_text().strip()
    assert secret not in up.output()


def test_a_job_is_made_watched_and_listed(command: Command) -> None:
    job = command("jobs", "create", "a/b:c*", "echo", "--input", '{"word": "hello"}', "--tag", "t1", "--wait")
    assert job["status"] == "completed"
    assert job["account"] == "a/b:c*"
    assert job["result"] == {"word": "hello"}
    listed = command("jobs", "list", "--tag", "t1")["items"]
    assert [each["id"] for each in listed] == [job["id"]]
    assert command("jobs", "get", job["id"])["steps"][0]["attempts"][0]["outcome"] == "completed"
    account = command("accounts", "get", "a/b:c*")
    assert account["account"] == "a/b:c*"
    assert "echo_a/b:c*" in [lane["queue"] for lane in account["lanes"]]


def test_input_comes_from_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"word": "from a file"}')
    job = command("jobs", "create", "filed", "echo", "--input", f"@{tmp_path}/input.json")
    assert job["input"] == {"word": "from a file"}


def test_a_waiting_job_is_cancelled(command: Command) -> None:
    job = command("jobs", "create", "late", "echo", "--delay", "3600")
    assert command("jobs", "cancel", job["id"])["status"] == "cancelled"
    assert "job_finished" in command("jobs", "cancel", job["id"], status=1)


def test_a_failed_job_is_a_dead_letter_that_can_be_replayed_and_discarded(command: Command) -> None:
    job = command("jobs", "create", "sad", "refuse", "--wait", status=10)
    assert job["error"]["code"] == "rejected"
    letter = command("dead-letters", "list", "--account", "sad")["items"][0]
    assert command("dead-letters", "replay", letter["id"])["id"] == job["id"]
    command("jobs", "wait", job["id"], status=10)
    letters = command("dead-letters", "list", "--account", "sad")["items"]
    for each in letters:
        command("dead-letters", "discard", each["id"])
    assert command("dead-letters", "list", "--account", "sad")["items"] == []


def test_a_queue_is_listed_and_deleted_only_by_force_while_something_waits(command: Command, up: RunningUp) -> None:
    command("jobs", "create", "sweep", "echo", "--delay", "30")
    with up.client() as client:
        wait_for("the queue", lambda: bool(list(client.queues.list(account="sweep"))))
    (queue,) = command("queues", "list", "--account", "sweep")["items"]
    assert (queue["queue"], queue["delayed"]) == ("echo_sweep", 1)
    assert "queue_not_empty" in command("queues", "delete", "echo", "sweep", status=1)
    assert command("queues", "delete", "echo", "sweep", "--force") == {"cancelled": 1, "deleted": True}


def test_keys_open_what_they_should(command: Command, up: RunningUp, capsys: pytest.CaptureFixture[str]) -> None:
    own = command("keys", "create", "walled", "--name", "shop")["key"]
    job = command("jobs", "create", "other", "echo")
    assert run(["jobs", "get", job["id"], "--key", own, "--data-dir", str(up.data_dir)]) == 1
    assert "not_found" in capsys.readouterr().err
    admin = command("keys", "create", "--admin")["key"]
    assert run(["jobs", "get", job["id"], "--key", admin, "--data-dir", str(up.data_dir)]) == 0
    assert run(["keys", "create", "--data-dir", str(up.data_dir)]) == 2


def test_refusals_name_the_field(command: Command) -> None:
    said = command("jobs", "create", "acme", "echo", "--input", '{"wrod": 1}', status=1)
    assert "invalid_input" in said
    assert "wrod" in said
    assert "unknown_pipeline" in command("jobs", "create", "acme", "ecco", status=1)
    assert run(["jobs", "create", "acme", "echo", "--input", "[1]"]) == 2


def test_a_wrong_key_and_no_service_have_exit_codes(command: Command, tmp_path: Path, up: RunningUp) -> None:
    assert run(["jobs", "list", "--data-dir", str(up.data_dir), "--key", "x" * 30]) == 1
    assert run(["jobs", "list", "--url", "http://127.0.0.1:9", "--key", "x" * 30]) == 3
    assert run(["jobs", "list", "--data-dir", str(tmp_path / "nothing")]) == 4


def test_a_second_up_on_the_directory_is_refused_in_one_sentence(up: RunningUp) -> None:
    second = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", "up", "--data-dir", str(up.data_dir)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=150,
        check=False,
    )
    assert second.returncode == 1
    assert f"process {up.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_up_ends_at_once_with_the_status_of_a_part_that_refuses_settings(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", "up", "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env={**environment(), "ONELANE_PIPELINES": "no.such.module"},
        cwd=ROOT,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 4
    assert "ONELANE_PIPELINES: module 'no.such.module' cannot be imported" in ended.stderr
    assert "starting it again in 1 s" not in ended.stdout + ended.stderr


def test_a_worker_that_is_killed_is_started_again(up: RunningUp, command: Command) -> None:
    with up.client() as client:
        (before,) = client.workers()
        os.kill(before["pid"], signal.SIGKILL)
        wait_for("another worker", lambda: any(each["pid"] != before["pid"] for each in client.workers()), running=up)
    assert "worker-1 | ended unexpectedly (signal SIGKILL)" in up.output()
    assert command("jobs", "create", "after", "echo", "--wait")["status"] == "completed"


def test_valkey_that_is_killed_is_started_again(up: RunningUp, command: Command) -> None:
    server = next(each for each in up.family() if "valkey-server" in each.name())
    server.kill()
    wait_for("Valkey again", lambda: any("valkey-server" in each.name() for each in up.family()), running=up)
    assert command("jobs", "create", "valkey", "echo", "--wait")["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_up_ends(number: signal.Signals, tmp_path: Path) -> None:
    running = start_up(tmp_path / "data", tmp_path / "up.log")
    family: list[psutil.Process] = []
    try:
        wait_for("up is ready", running.ready, seconds=START_SECONDS, running=running)
        # Valkey and its watchdog, API, worker with guard and zygote, blog, model.
        wait_for("all processes", lambda: len(running.family()) >= 8, running=running)
        family = running.family()
        running.process.send_signal(number)
        ended = running.process.wait(timeout=90)
        assert ended == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        wait_for("all processes gone", lambda: gone(family))
    finally:
        running.stop()
        for each in family:
            if each.is_running():
                each.kill()
