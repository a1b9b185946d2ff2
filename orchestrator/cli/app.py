"""The commands that run the service: up, serve, work, migrate, demo, doctor; and how every command ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..client import ApiError, NotReachable
from ..data_folder import FolderBusy, FolderUnusable
from ..ports import PortBusy
from ..settings import SettingsError
from . import FAILED, INTERRUPTED, NOT_REACHABLE, OK, PIPE_CLOSED, USAGE, WRONG_SETTINGS, context, resources
from .context import DataDir, Json
from .output import close_quietly, fail

app = typer.Typer(
    name="onelane",
    help="Every account its own lane: each account's jobs one at a time, in order, apart from all others.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no service answers, 4 wrong settings, "
    "130 interrupted, 141 the output's reader has gone. Where a job's end is waited for: 0 completed, 10 failed, "
    "11 timed out, 12 cancelled, 13 expired, 14 not ended in time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
resources.add_to(app)

Host = Annotated[str | None, typer.Option(help="Listen on this address (ONELANE_HOST).")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="The HTTP API's port (ONELANE_PORT).")]
Processes = Annotated[int | None, typer.Option(min=1, help="Worker processes (ONELANE_PROCESSES).")]
Threads = Annotated[int | None, typer.Option(min=1, help="Steps at a time per worker (ONELANE_THREADS).")]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


@app.command()
def up(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    processes: Processes = None,
    threads: Threads = None,
) -> None:
    """Run everything on this machine: Valkey, API, workers, demo blog, and without a Gemini key the offline model."""
    from . import service

    settings = context.load(data_dir, host=host, port=port, processes=processes, threads=threads)
    raise typer.Exit(service.run_up(settings))


@app.command()
def serve(host: Host = None, port: Port = None, data_dir: DataDir = None, supervised: Supervised = False) -> None:
    """Run the control plane: HTTP API and loops. Any number may run."""
    from . import service

    settings = context.load(data_dir, check_alert_urls=not supervised, host=host, port=port)
    raise typer.Exit(service.run_serve(settings, supervised=supervised))


@app.command()
def work(
    lanes: Annotated[str | None, typer.Option(help="Only these lanes, separated by commas (ONELANE_LANES).")] = None,
    threads: Threads = None,
    data_dir: DataDir = None,
    supervised: Supervised = False,
) -> None:
    """Run a worker. Any number may run, on any number of hosts."""
    from . import service

    settings = context.load(data_dir, check_alert_urls=not supervised, lanes=lanes, threads=threads)
    raise typer.Exit(service.run_work(settings, supervised=supervised))


@app.command()
def migrate(data_dir: DataDir = None, json: Json = False) -> None:
    """Bring the database's schema up to date. Safe while workers run, and from several places at once."""
    from . import service

    service.run_migrate(context.load(data_dir), json=json)


@app.command()
def doctor(
    data_dir: DataDir = None,
    json: Json = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Only print a fresh key, for a setting.")] = False,
) -> None:
    """Check settings, database, Redis, browser and model, and say how to mend what is wrong."""
    from . import service

    if new_key:
        service.run_new_key(json=json)
    else:
        raise typer.Exit(service.run_doctor(data_dir, json=json))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Its *.md and *.txt files become posts.")] = Path("docs"),
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="End when all is done; status 0 only if each post was published once.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Publish one post per text file for five accounts, live, on a service of its own on this machine."""
    from . import service

    raise typer.Exit(service.run_demo(folder, context.load(data_dir), exit_when_done=exit_when_done, json=json))


@app.command("demo-blog", hidden=True)
def demo_blog(data_dir: DataDir = None, supervised: Supervised = False) -> None:
    """Serve the demo blog alone; `up` does so."""
    from . import service

    service.run_demo_blog(context.load(data_dir, check_alert_urls=False), supervised=supervised)


@app.command("offline-model", hidden=True)
def offline_model(data_dir: DataDir = None, supervised: Supervised = False) -> None:
    """Serve the offline model alone; `up` does so when there is no Gemini key."""
    from . import service

    service.run_offline_model(context.load(data_dir, check_alert_urls=False), supervised=supervised)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; gives back its exit code. No traceback reaches a user for what a user can mend."""
    # A user's own pipelines may lie in the working directory; at the end of the path they hide nothing of ours.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not argument.isprintable() and any("\ud800" <= each <= "\udfff" for each in argument):
            fail(f"{argument.encode(errors='surrogateescape')!r} is no UTF-8")  # no request could carry it
            return USAGE
    try:
        # Wrong usage and `typer.Exit` end here too: typer prints what is to be said and raises SystemExit.
        # By name: however it was started, help and completion speak of the command that people type.
        app(args=arguments, prog_name="onelane")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else OK
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            close_quietly()
            return PIPE_CLOSED
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except (SettingsError, context.NoKey) as error:
        fail(str(error))
        return WRONG_SETTINGS
    except NotReachable as error:
        fail(f"{error}\nStart one with `onelane up`, or name another with --url.")
        return NOT_REACHABLE
    except (ApiError, FolderBusy, FolderUnusable, PortBusy) as error:
        fail(str(error))
        return FAILED
    except Exception as error:
        from .service import is_mendable

        if not is_mendable(error):
            raise
        fail(str(error))
        return FAILED
    return OK
