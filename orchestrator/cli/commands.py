"""The table of all commands. A command is imported when it is run, because importing all takes longer than running one.

Help and completion use this table alone. A summary equals the first paragraph of the command's help; a test compares
them.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Command(NamedTuple):
    """A command or a group of commands: a module of this package, and a name in it."""

    name: str
    module: str
    attribute: str
    summary: str


COMMANDS = (
    Command(
        "up",
        "service_commands",
        "up",
        "Run everything on this machine: Valkey, API, workers, demo blog, and without a Gemini key the offline model.",
    ),
    Command("serve", "service_commands", "serve", "Run the control plane: HTTP API and loops. Any number may run."),
    Command("work", "service_commands", "work", "Run a worker. Any number may run, on any number of hosts."),
    Command(
        "migrate",
        "service_commands",
        "migrate",
        "Bring the database's schema up to date. Safe while workers run, and from several places at once.",
    ),
    Command(
        "doctor",
        "service_commands",
        "doctor",
        "Check settings, database, Redis, browser and model, and say how to fix what is wrong.",
    ),
    Command(
        "demo",
        "service_commands",
        "demo",
        "Publish one post per text file for five accounts, live, on a service of its own on this machine.",
    ),
    Command("jobs", "jobs", "group", "Make, list, look at, explain, watch and steer jobs."),
    Command("drafts", "drafts", "group", "List, read and change drafts."),
    Command("publications", "drafts", "publications", "Settle publications of unknown outcome."),
    Command("schedules", "schedules", "group", "Make, list, look at, change, preview and run schedules."),
    Command("accounts", "account_data", "accounts", "Look at, limit, pause and steer accounts."),
    Command("keys", "keys", "keys", "Make, list and end API keys."),
    Command("queues", "admin", "queues", "List, check, pause and delete live tenant queues."),
    Command("lanes", "admin", "lanes", "List, pause and limit lanes, over all accounts."),
    Command("dead-letters", "dead_letters", "group", "List, replay and discard steps that will not be tried again."),
    Command("alerts", "alerts", "group", "List alerts, test where they go, list open circuits."),
    Command("workers", "admin", "workers", "Look at the live workers."),
    Command("pipelines", "admin", "pipelines", "Look at the pipelines that are loaded."),
    Command("admin-keys", "keys", "admin_keys", "Make, list, replace and end API keys with scope admin."),
    Command("secrets", "secret_keys", "group", "Change the key that seals sessions and secrets."),
    Command("publishers", "publishers", "group", "List publishers, and try one against its real target."),
    Command("reap", "admin", "reap", "Delete tenant queues that are empty and unused; a loop does it, too."),
    Command(
        "reconcile",
        "admin",
        "reconcile",
        "Make Redis hold what SQL says, now; after a loss of Redis it happens by itself.",
    ),
    Command(
        "audit",
        "admin",
        "audit",
        "List who changed what, when and from where, newest first; --json shows before and after.",
    ),
)


class LoadedCommands(UserDict[str, Any]):
    """Commands by name, each imported at its first use."""

    def __init__(self) -> None:
        super().__init__({each.name: each for each in COMMANDS})

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if isinstance(found, Command):
            found = self[name] = _load(found)
        return found


class LazyGroup(TyperGroup):
    """The root group: lists the commands of the table, and loads the one that is run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "commands": None})
        self.commands = LoadedCommands()
        self._summaries = {each.name: TyperCommand(each.name, help=each.summary) for each in COMMANDS}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command's name and summary, for lists; `resolve_command` loads the command."""
        return self._summaries.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else self.commands[name], rest


def _load(command: Command) -> Any:
    from .context import expand_options

    found = getattr(import_module(f".{command.module}", __package__), command.attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(command.name)(expand_options(found))
        return typer.main.get_command(alone)
    loaded = typer.main.get_group(found)
    loaded.name = command.name
    return loaded
