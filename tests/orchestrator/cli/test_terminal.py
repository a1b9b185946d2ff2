"""The command line as a shell runs it: a closed pipe, Ctrl-C, completion; and nothing of the user's home is touched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.orchestrator.cli.completion import complete
from tests.support.running import environment

pytestmark = pytest.mark.processes

ONELANE = [sys.executable, "-P", "-m", "orchestrator.cli"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of the test's own."""
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def variables(home: Path) -> dict[str, str]:
    return {
        **environment(),
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }


@pytest.fixture
def silent() -> Iterator[str]:
    """A service that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_closed_pipe_is_quiet(tmp_path: Path, variables: dict[str, str]) -> None:
    """The reader has gone before the first line is written."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*ONELANE, "doctor", "--new-key", "--json"],
        cwd=tmp_path,
        env=variables,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=150,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_ctrl_c_is_130_and_quiet(tmp_path: Path, variables: dict[str, str]) -> None:
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                asked.set()
                while connection.recv(100_000):
                    pass

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        process = subprocess.Popen(
            [*ONELANE, "jobs", "list", "--key", "k", "--url", f"http://127.0.0.1:{server.getsockname()[1]}"],
            cwd=tmp_path,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert asked.wait(120), "the command asks the service"
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait(30)
            thread.join(30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        ("bash", {"COMP_WORDS": "onelane jobs w", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "onelane jobs w"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "onelane jobs w", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_each_shell_completes(
    tmp_path: Path, home: Path, variables: dict[str, str], shell: str, typed: dict[str, str]
) -> None:
    program = Path(sys.executable).with_name("onelane")
    if not program.exists():
        pytest.skip("the project is not installed beside this interpreter, so there is no onelane program")

    def ask(**more: str) -> str:
        return subprocess.run(
            [program], cwd=tmp_path, env={**variables, **more}, capture_output=True, text=True, timeout=150, check=False
        ).stdout

    assert "_ONELANE_COMPLETE" in ask(_ONELANE_COMPLETE=f"source_{shell}")
    offered = ask(_ONELANE_COMPLETE=f"complete_{shell}", **typed)
    assert "wait" in offered
    assert "watch" in offered
    assert "cancel" not in offered
    assert list(home.iterdir()) == []


def test_completion_can_be_shown(tmp_path: Path, home: Path, variables: dict[str, str]) -> None:
    ended = subprocess.run(
        [*ONELANE, "--show-completion", "bash"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "complete" in ended.stdout
    assert list(home.iterdir()) == []


def test_statuses_are_completed_without_a_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete("onelane accounts list --status s", monkeypatch, capsys) == ["suspended"]
    assert complete("onelane jobs list --status ti", monkeypatch, capsys) == ["timed_out"]


def test_a_service_that_is_silent_leaves_no_offer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent: str, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.cli.completion.SECONDS", 0.2)
    monkeypatch.setenv("ONELANE_URL", silent)
    assert complete("onelane jobs get x", monkeypatch, capsys) == [], "there is no key, either"
    monkeypatch.setenv("ONELANE_API_KEY", "a-key-that-opens-nothing-at-all")
    assert complete("onelane jobs get x", monkeypatch, capsys) == []
