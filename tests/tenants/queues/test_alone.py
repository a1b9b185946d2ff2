"""The broker as a distribution of its own: its wheel alone in an environment, used by a project with our names."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests import ROOT
from tests.tenants.queues.conftest import eventually
from tests.tenants.queues.lanes import Client

FOLDER = ROOT / "tenants" / "queues"
NEEDED = ("dramatiq", "hiredis", "redis")

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

ACTORS = """
import os
import dramatiq, redis
from onelane_queues import TenantBroker, current_message
from tenants.billing import price

broker = TenantBroker(url=os.environ["SERVER"])
dramatiq.set_broker(broker)
client = redis.Redis.from_url(os.environ["SERVER"])

@dramatiq.actor(queue_name="resize")
def resize(picture):
    client.rpush("reported", f"{current_message().account} {picture} {price(picture)}")
"""
SEND = "import actors; actors.resize.send_with_options(args=('a.png',), account='acme')"
ONLY_THESE = "from importlib.metadata import distributions; print(*sorted(each.name for each in distributions()))"
EMBEDDED = """
from onelane_queues import EmbeddedServerFailed, EmbeddedValkey
try:
    EmbeddedValkey("data").start()
except EmbeddedServerFailed as error:
    print(error)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=FOLDER, check=True)
    (built,) = folder.glob("onelane_queues-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it requires."""
    home = tmp_path_factory.mktemp("alone") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python3*/site-packages")
    for name in NEEDED:  # copied, because a test has no package index
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), target)
    program = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(program)]
    subprocess.run([*pip, "install", "--no-index", wheel], check=True)  # fails where it requires anything else
    return program


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has an `actors.py` and a package `tenants` of its own."""
    (tmp_path / "actors.py").write_text(ACTORS)
    (tmp_path / "tenants").mkdir()
    (tmp_path / "tenants" / "__init__.py").write_text("")
    (tmp_path / "tenants" / "billing.py").write_text("def price(picture):\n    return len(picture)\n")
    return tmp_path


def run(python: Path, program: str, folder: Path, **variables: str) -> str:
    ended = subprocess.run(
        [python, "-c", program], cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_brings_three_libraries_and_nothing_of_onelane(python: Path, tmp_path: Path) -> None:
    assert run(python, ONLY_THESE, tmp_path).split() == sorted([*NEEDED, "onelane-queues"])
    assert run(python, "import onelane_queues, sys; print('tenants' in sys.modules)", tmp_path) == "False\n"


def test_the_dramatiq_command_serves_a_project_with_packages_of_our_names(
    python: Path, project: Path, client: Client, redis_url: str
) -> None:
    command = [str(python), "-m", "dramatiq", "actors", "--processes", "1", "--threads", "1"]
    worker = subprocess.Popen(command, cwd=project, env={"SERVER": redis_url}, stderr=subprocess.DEVNULL)
    try:
        run(python, SEND, project, SERVER=redis_url)
        eventually(lambda: client.lrange("reported", 0, -1) == [b"acme a.png 5"], 90)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
    finally:
        worker.kill()
        worker.wait()


def test_every_example_runs(python: Path, project: Path, redis_url: str) -> None:
    text = (ROOT / "docs" / "queues.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 2
    code = "\n".join(examples).replace("tenants.queues", "onelane_queues").replace("redis://localhost:6379", redis_url)
    declared = "dramatiq.set_broker(broker)\n\n@dramatiq.actor(queue_name='resize')\ndef resize(picture): ...\n"
    code = re.sub(r"dramatiq\.set_broker\(broker\).*\n", declared, code, count=1)
    head = """
import dramatiq
from datetime import UTC, datetime, timedelta
from onelane_queues import *
picture, tomorrow = "a.png", datetime.now(UTC) + timedelta(days=1)
"""
    reported = run(python, f"{head}{code}\nprint(broker.queues_admin.describe('resize', 'acme').waiting)", project)
    assert reported == "1\n"


def test_the_embedded_server_names_its_extra(python: Path, tmp_path: Path) -> None:
    assert "onelane-queues[embedded]" in run(python, EMBEDDED, tmp_path)


def test_it_agrees_with_the_service_s_distribution() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    alone = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    assert alone["version"] == whole["version"]
    assert set(alone["dependencies"]) <= set(whole["dependencies"])
    assert alone["optional-dependencies"]["embedded"] == whole["optional-dependencies"]["embedded"]
