"""The README's tour, run as it stands: every command, in order, against a real `onelane up` with a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from orchestrator.settings import installed_chromium
from tests import ROOT
from tests.support.running import RunningUp, environment, start_up, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.campaign,
    pytest.mark.timeout(900),
]

UP = ".venv/bin/onelane up"
#: Stands between the outputs of two blocks.
MARK = "--- the next block ---"


def blocks() -> list[tuple[str, str]]:
    """Language and content of the tour's code, in order."""
    tour = (ROOT / "README.md").read_text().partition("## A tour\n")[2].partition("\n### ")[0]
    return [(token.info, token.content) for token in MarkdownIt().parse(tour) if token.type == "fence"]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """What the tour runs with: a Python that keeps what it has compiled, as an installed one does."""
    made = environment(COLUMNS="140")
    if made.pop("PYTHONDONTWRITEBYTECODE", None) is not None:
        made["PYTHONPYCACHEPREFIX"] = str(tmp_path / "compiled")
    program = Path(sys.executable).parent
    return {**made, "PATH": f"{program}{os.pathsep}{made['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def up(tmp_path: Path, variables: dict[str, str]) -> Iterator[RunningUp]:
    kept = {name: each for name, each in variables.items() if name == "PYTHONPYCACHEPREFIX"}
    running = start_up(tmp_path / ".onelane", tmp_path / "up.log", kept)
    try:
        wait_for("up is ready", running.ready, seconds=300, running=running)
        yield running
    finally:
        running.stop()


@pytest.mark.campaign
@pytest.mark.skipif(installed_chromium() is None, reason="no Chromium is installed on this machine")
def test_every_command_of_the_tour_does_what_the_tour_says(
    tmp_path: Path, up: RunningUp, variables: dict[str, str]
) -> None:
    program = Path(sys.executable).with_name("onelane")
    if not program.exists():
        pytest.skip("the project is not installed beside this interpreter, so there is no onelane program")
    (_, first), *rest = blocks()
    assert first.startswith(UP), "the tour begins with what this test has started already"
    shell = "".join(f"{code}\necho '{MARK}'\n" for language, code in rest if language == "sh")
    for name, port in (("8700", up.ports()["api"]), ("8701", up.ports()["demo_blog"])):
        assert f"127.0.0.1:{name}" in shell
        shell = shell.replace(f"127.0.0.1:{name}", f"127.0.0.1:{port}")

    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    reported = f"{ended.stdout}\n{ended.stderr}\n{up.output()[-3000:]}"
    assert ended.returncode == 0, reported
    target, watched, approved, replayed, cleaned, posted, _ = ended.stdout.split(MARK)
    assert "session ready" in target, reported
    assert "0 9 * * 1-5 (Europe/Berlin)" in watched, reported
    assert "awaiting_approval" in watched.splitlines()[-5], reported
    assert "Rye, from the start  (pending_publish, version 2)" in approved, reported
    assert "status 10: it failed" in approved, reported
    assert "login_required" in replayed, reported
    assert "completed" in replayed, reported
    assert "Rye, from the start" in replayed.rpartition("\nid ")[2], reported
    assert list((tmp_path / "evidence").glob("*.png")), reported
    assert "queue_paused" in cleaned, reported
    assert "deleted generate_acme; 3 cancelled" in cleaned, reported
    assert '"status":"awaiting_approval"' in posted or '"status":"queued"' in posted, reported
    assert "Traceback" not in ended.stderr, reported
    with up.client() as onelane:
        (draft,) = onelane.drafts.list(account="acme", status="published")
        assert draft["title"] == "Rye, from the start"
        assert list(onelane.dead_letters.list()) == []
        assert list(onelane.schedules.list()) == []
    _run_python(rest, up, tmp_path)


def _run_python(found: list[tuple[str, str]], up: RunningUp, folder: Path) -> None:
    (code,) = [code for language, code in found if language == "python"]
    reported: list[str] = []
    key = (folder / ".onelane" / "admin.key").read_text().strip()
    names = {"key": key, "print": lambda *words: reported.append(" ".join(map(str, words)))}
    exec(code.replace("127.0.0.1:8700", f"127.0.0.1:{up.ports()['api']}"), names)  # noqa: S102 - our own README
    assert len(reported) == 1
    assert "/acme/" in reported[0]
