"""What a child can see: the allow-listed environment, its own directory, none of the worker's descriptors."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.outcome import Completed
from orchestrator.isolation.sandbox import Sandbox
from tests.orchestrator.isolation.sandbox_calls import Running, step_call

SECRETS = {
    "ONELANE_DATABASE_URL": "postgresql://u:hunter2@db/x",
    "ONELANE_REDIS_URL": "redis://:hunter2@r",
    "ONELANE_ADMIN_KEY": "hunter2",
    "ONELANE_SECRET_KEY": "hunter2",
    "GEMINI_API_KEY": "hunter2",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
}


@pytest.fixture
def seen(make_sandbox: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    database = socket.socketpair()
    for end in database:
        end.set_inheritable(True)  # the worst case: even a descriptor that would survive an exec
    sandbox = make_sandbox(environment=allowed_environment(os.environ, {"LC_EXTRA": "1"}))
    outcome = Running(sandbox, step_call("surroundings")).outcome()
    for end in database:
        end.close()
    assert isinstance(outcome, Completed)
    value: dict[str, Any] = outcome.value
    return value


@pytest.mark.processes
def test_no_secret_in_the_environment_of_any_process(seen: dict[str, Any]) -> None:
    assert not set(SECRETS) & set(seen["environ"])
    assert seen["environ"]["LC_EXTRA"] == "1"
    assert len(seen["proc_environ"]) == 3  # child, supervisor, zygote
    for text in seen["proc_environ"].values():
        assert "LC_EXTRA=1" in text
        assert "hunter2" not in text


@pytest.mark.processes
def test_no_descriptor_but_the_standard_ones_and_one_connection(seen: dict[str, Any]) -> None:
    descriptors = dict(seen["descriptors"])
    assert descriptors.pop("0") == "/dev/null"
    assert descriptors.pop("1").startswith("pipe:")
    assert descriptors.pop("2").startswith("pipe:")
    assert [target.split(":")[0] for target in descriptors.values()] == ["socket"]


@pytest.mark.processes
def test_an_own_session_and_directory_that_is_gone_afterwards(seen: dict[str, Any]) -> None:
    assert seen["session"] == seen["pid"]
    assert seen["cwd"] == seen["tempdir"] == seen["environ"]["TMPDIR"]
    assert "step" in Path(seen["cwd"]).name
    assert not Path(seen["cwd"]).exists()
    assert seen["blocked"] == []
    assert seen["sigterm_default"]
    assert seen["core_limit"] == 0
    assert seen["preloaded"]


def test_the_allow_list_passes_little_and_refuses_what_sounds_like_a_secret() -> None:
    source = {"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": "/x", **SECRETS}
    assert allowed_environment(source) == {"PATH": "/bin", "LC_ALL": "C"}
    with pytest.raises(ValueError, match="must not see MY_REDIS, THE_SECRET"):
        allowed_environment({}, {"THE_SECRET": "x", "MY_REDIS": "y", "FINE": "z"})


@pytest.mark.processes
def test_no_secret_in_the_guards_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    guard = Guard()
    guard.start()
    place, until = Path(f"/proc/{guard.pid}/environ"), time.monotonic() + 60
    # Empty for a moment: a process is said to have started before the kernel shows its new environment.
    while not (environment := place.read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    guard.stop()
    assert "PATH=" in environment
    assert "hunter2" not in environment
