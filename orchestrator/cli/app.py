"""The root of the command line: finds a command, and turns its end into an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..exit_codes import FAILED, INTERRUPTED, NOT_REACHABLE, OK, PIPE_CLOSED, USAGE, WRONG_SETTINGS
from .commands import LazyGroup

app = typer.Typer(
    name="onelane",
    cls=LazyGroup,
    help="Every account its own lane: each account's jobs one at a time, in order, apart from all others.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no service answers, 4 wrong settings, "
    "130 interrupted, 141 broken pipe. Commands that wait for a job: 0 completed, 10 failed, "
    "11 timed out, 12 cancelled, 13 expired, 14 not ended in time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ..version import package_version

        typer.echo(f"onelane {package_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the name of a command."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code. An error that a user can fix has no traceback."""
    # The user's pipelines may be in the working directory; at the end of the path it hides no module of onelane.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not argument.isprintable() and any("\ud800" <= each <= "\udfff" for each in argument):
            from ..terminal import fail

            fail(f"{argument.encode(errors='surrogateescape')!r} is no UTF-8")  # it cannot be sent
            return USAGE
    try:
        # Wrong usage and `typer.Exit` raise SystemExit here, after typer has printed the message.
        # With the program's name, help and completion show the command that people type.
        app(args=arguments, prog_name="onelane")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else OK
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            from ..terminal import close_quietly

            close_quietly()
            return PIPE_CLOSED
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        explained = _exit_code(error)
        if explained is None:
            raise
        return explained
    return OK


def _exit_code(error: Exception) -> int | None:
    """Print an error that a user can fix, and return its exit code; None for any other error."""
    from ..client import ApiError, NotReachable
    from ..local.data_folder import FolderBusy, FolderUnusable
    from ..local.ports import PortBusy
    from ..settings_sources import SettingsError
    from ..terminal import fail
    from .context import NoKey

    if isinstance(error, SettingsError | NoKey):
        fail(str(error))
        return WRONG_SETTINGS
    if isinstance(error, NotReachable):
        fail(f"{error}\nStart one with `onelane up`, or name another with --url.")
        return NOT_REACHABLE
    if isinstance(error, ApiError | FolderBusy | FolderUnusable | PortBusy):
        fail(str(error))
        return FAILED
    from .service import exit_code

    code = exit_code(error)
    if code is not None:
        fail(str(error))
    return code
