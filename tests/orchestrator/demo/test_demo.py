"""The demo as a stranger runs it: killed in the middle of publishing, run again, nothing lost and nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.settings import installed_chromium
from tests import ROOT
from tests.support.running import environment, gone, wait_for
from tests.support.servers import free_port

pytestmark = [pytest.mark.processes, pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1000)]

TEXT = """# A lane of its own

Each account has a lane. Steps in a lane run one at a time, in order. One account's backlog delays no other account.

## Why it matters

Some sites lock an account that posts twice at once. A lane makes that impossible, however many workers there are.
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "lane.md").write_text(TEXT)
    (tmp_path / "texts" / "empty.txt").write_text("")
    program = [sys.executable, "-P", "-m", "orchestrator.cli", "demo", str(tmp_path / "texts")]
    return [*program, "--exit", "--data-dir", str(tmp_path / "data")]


@pytest.fixture
def variables() -> dict[str, str]:
    ports = {name: str(free_port()) for name in ("PORT", "DEMO_BLOG_PORT", "OFFLINE_MODEL_PORT")}
    return environment(**{f"ONELANE_{name}": port for name, port in ports.items()})


@pytest.mark.skipif(installed_chromium() is None, reason="no Chromium is installed on this machine")
def test_killed_in_the_middle_and_run_again_it_publishes_everything_once(
    tmp_path: Path, command: list[str], variables: dict[str, str]
) -> None:
    with (tmp_path / "first.txt").open("wb") as stream:
        first = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=stream, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        said = tmp_path / "first.txt"
        wait_for(
            "a post is being published", lambda: " publish " in said.read_text() or bool(first.poll()), seconds=360
        )
        family = psutil.Process(first.pid).children(recursive=True)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=60)
    assert first.returncode == -signal.SIGKILL, said.read_text()
    wait_for("no process of the killed demo is left", lambda: gone(family))

    second = subprocess.run(
        [*command, "--json"], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=400, check=False
    )
    assert second.returncode == 0, second.stderr
    report = json.loads(second.stdout)
    assert report["ok"]
    assert report["overlaps"] == 0
    assert [post["status"] for post in report["posts"]] == ["completed"] * 5
    assert len({post["url"] for post in report["posts"]}) == 5
    assert [(blog["expected"], blog["found"], blog["exactly_once"]) for blog in report["blogs"]] == [(1, 1, True)] * 5
    assert [each["name"] for each in report["skipped"]] == ["empty.txt"]
    assert all(queue["most_at_once"] == 1 for queue in report["queues"])
    assert {queue["lane"] for queue in report["queues"]} == {"generate", "publish"}


def test_a_folder_without_texts_ends_before_anything_starts(tmp_path: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "demo", str(tmp_path), "--exit", "--data-dir"]
    ended = subprocess.run(
        [*command, str(tmp_path / "data")],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 1
    assert str(tmp_path) in ended.stderr
    assert not os.path.exists(tmp_path / "data")
