"""The documents about client and command line name what is there, and all of it."""

from __future__ import annotations

import re

import typer

from orchestrator.cli.app import app
from orchestrator.client import Onelane
from orchestrator.client.connection import Api
from tests import ROOT


def words_of(document: str) -> set[str]:
    """The words in code type, one by one."""
    text = (ROOT / "docs" / document).read_text()
    return {word for piece in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[\s|]+", piece)}


def test_the_command_line_s_page_names_every_command() -> None:
    known = words_of("command-line.md")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    names = {name for name, each in commands.items() if not each.hidden}
    names |= {
        name
        for each in commands.values()
        for name, below in getattr(each, "commands", {}).items()
        if not hasattr(below, "commands")
    }
    assert names - known == set(), "docs/command-line.md does not name these"


def test_the_client_s_page_names_every_resource_and_what_it_can_do() -> None:
    known = words_of("client.md")
    with Onelane("http://127.0.0.1:1", "key") as onelane:
        resources = {name: each for name, each in vars(onelane).items() if isinstance(each, Api)}
        assert set(resources) - known == set(), "docs/client.md does not name these"
        for resource in ("jobs", "drafts", "schedules"):
            methods = {name for name in vars(type(resources[resource])) if not name.startswith("_")}
            assert methods - known == set(), resource


def test_the_architecture_page_lists_every_loop() -> None:
    names = {
        name
        for module in (ROOT / "orchestrator" / "loops").glob("*.py")
        for name in re.findall(r'^    name = "(\w+)"', module.read_text("utf-8"), re.MULTILINE)
    }
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("\n## Loops\n")[2].partition("\n## ")[0]
    assert names == set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) - {"loop"}
