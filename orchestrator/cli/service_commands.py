"""The commands up, serve, work, migrate, demo and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import service
from .context import DataDir, Json, load

Host = Annotated[str | None, typer.Option(help="Listen on this address (ONELANE_HOST).")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="The HTTP API's port (ONELANE_PORT).")]
Processes = Annotated[int | None, typer.Option(min=1, help="Worker processes (ONELANE_PROCESSES).")]
Threads = Annotated[int | None, typer.Option(min=1, help="Steps at a time per worker (ONELANE_THREADS).")]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def up(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    processes: Processes = None,
    threads: Threads = None,
) -> None:
    """Run everything on this machine: Valkey, API, workers, demo blog, and without a Gemini key the offline model."""
    settings = load(data_dir, host=host, port=port, processes=processes, threads=threads)
    raise typer.Exit(service.run_up(settings))


def serve(host: Host = None, port: Port = None, data_dir: DataDir = None, supervised: Supervised = False) -> None:
    """Run the control plane: HTTP API and loops. Any number may run."""
    settings = load(data_dir, check_alert_urls=not supervised, host=host, port=port)
    raise typer.Exit(service.run_serve(settings, supervised=supervised))


def work(
    lanes: Annotated[str | None, typer.Option(help="Only these lanes, separated by commas (ONELANE_LANES).")] = None,
    threads: Threads = None,
    data_dir: DataDir = None,
    supervised: Supervised = False,
) -> None:
    """Run a worker. Any number may run, on any number of hosts."""
    settings = load(data_dir, check_alert_urls=not supervised, lanes=lanes, threads=threads)
    raise typer.Exit(service.run_work(settings, supervised=supervised))


def migrate(data_dir: DataDir = None, json: Json = False) -> None:
    """Bring the database's schema up to date. Safe while workers run, and from several places at once."""
    service.run_migrate(load(data_dir), json=json)


def doctor(
    data_dir: DataDir = None,
    json: Json = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Only print a fresh key, for a setting.")] = False,
) -> None:
    """Check settings, database, Redis, browser and model, and say how to fix what is wrong."""
    if new_key:
        service.run_new_key(json=json)
    else:
        raise typer.Exit(service.run_doctor(data_dir, json=json))


def demo(
    folder: Annotated[Path, typer.Argument(help="Its *.md and *.txt files become posts.")] = Path("docs"),
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="End when done; status 0 only if each post was published once.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Publish one post per text file for five accounts, live, on a service of its own on this machine."""
    raise typer.Exit(service.run_demo(folder, load(data_dir), exit_when_done=exit_when_done, json=json))
