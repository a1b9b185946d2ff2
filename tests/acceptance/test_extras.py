"""Without an extra's package everything else works, and what needs it names the extra."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from actors.extras import EXTRAS, importable
from orchestrator.worker.process import PRELOADED_CLIENTS
from tests import ROOT
from tests.support.running import environment

pytestmark = pytest.mark.processes

_CLIENTS = "from actors.clients import Clients; clients = Clients(None, lambda: 1.0)"
_PUBLISHER = """
from actors import Target
from actors.clients.publishers import open_publisher
open_publisher(Target("wordpress", "https://blog.example", {}), None)
"""
_USES = {
    "alerts": "from orchestrator.settings import Settings; Settings.load(alert_urls=('json://127.0.0.1:9/hook',))",
    "browser": f"{_CLIENTS}; clients.browser()",
    "embedded": "from tenants.queues import EmbeddedValkey; EmbeddedValkey('data').start()",
    "gemini": f"{_CLIENTS}; clients.text_model()",
    "browser ": _PUBLISHER,
}


def run_without(package: str, program: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    hidden = f"import sys; sys.modules[{package!r}] = None; sys.path.insert(0, {str(ROOT)!r})\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", hidden + program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize("use", _USES)
def test_what_needs_an_extra_names_it(use: str, tmp_path: Path) -> None:
    extra = use.strip()
    ended = run_without(EXTRAS[extra], _USES[use], tmp_path)
    assert ended.returncode == 1
    assert re.search(rf"\[{extra}\]", ended.stderr.splitlines()[-1]), ended.stderr


@pytest.mark.parametrize("package", EXTRAS.values())
def test_control_plane_and_worker_load_without_the_package(package: str, tmp_path: Path) -> None:
    program = """
import orchestrator.local.up, orchestrator.local.doctor, orchestrator.web.app, orchestrator.worker.process
import orchestrator.loops.service
from actors.clients.publishers import load_publishers
from actors.extras import importable
from actors.pipeline import load_pipelines
from importlib import import_module
publishers = load_publishers()
modules = {step.module for pipeline in load_pipelines().values() for step in pipeline.steps}
modules |= orchestrator.worker.process.PRELOADED_CLIENTS | {each.module for each in publishers.values()}
for module in importable(modules):
    import_module(module)
"""
    ended = run_without(package, program, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_with_every_extra_a_worker_loads_every_client() -> None:
    assert importable(PRELOADED_CLIENTS) == PRELOADED_CLIENTS


def test_the_distribution_has_these_extras_and_all_of_them() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.pop("all") == [f"onelane[{','.join(sorted(extras))}]"]
    assert set(extras) == set(EXTRAS)
