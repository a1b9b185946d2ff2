from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.isolation.environment import allowed_environment
from orchestrator.isolation.guard import Guard
from orchestrator.isolation.sandbox import Sandbox
from tests.orchestrator.isolation.sandbox_calls import STEPS


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    guard = Guard(beat_seconds=0.5)
    guard.start()
    yield guard
    guard.stop()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sandboxes of a test module have the directories of their steps."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def sandbox(guard: Guard, scratch: Path) -> Iterator[Sandbox]:
    """One sandbox for all tests of a module: it must be as good as new after each of them."""
    sandbox = Sandbox(
        scratch_dir=scratch, preload=[STEPS], environment=allowed_environment(os.environ), guard=guard, warm_spares=1
    )
    sandbox.start()
    yield sandbox
    sandbox.stop()
    assert list(scratch.iterdir()) == []


@pytest.fixture
def make_sandbox(tmp_path: Path, guard: Guard) -> Iterator[Callable[..., Sandbox]]:
    """Makes a sandbox with settings of its own."""
    made = []

    def make(**settings: Any) -> Sandbox:
        settings = {"environment": allowed_environment(os.environ), "preload": [STEPS], "guard": guard, **settings}
        sandbox = Sandbox(scratch_dir=tmp_path / "scratch", **settings)
        made.append(sandbox)
        sandbox.start()
        return sandbox

    yield make
    for sandbox in made:
        sandbox.stop()
    assert list((tmp_path / "scratch").iterdir()) == []
