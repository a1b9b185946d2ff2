"""What onelane prints: JSON for programs and text for people on standard output, remarks and errors on standard error.

Invariant: with `--json`, standard output has exactly one JSON document; a command that watches prints one per line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import typer

from .exit_codes import PIPE_CLOSED

if TYPE_CHECKING:
    from rich.console import Console

#: Columns where standard output is no terminal: whoever reads it gets each line whole.
PIPED_WIDTH = 100_000


@cache
def _make_console(*, stderr: bool) -> Console:
    from rich.console import Console

    class EndsQuietly(Console):
        def on_broken_pipe(self) -> None:
            close_quietly()
            raise typer.Exit(PIPE_CLOSED)

    if stderr:
        return Console(stderr=True, highlight=False)
    return EndsQuietly(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


class _ConsoleAtFirstUse:
    """A console whose library is imported at its first use: a command that prints JSON, or fails, does without."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._stderr = stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(_make_console(stderr=self._stderr), name)


console = cast("Console", _ConsoleAtFirstUse())
errors = cast("Console", _ConsoleAtFirstUse(stderr=True))

_STATUS_STYLES = {
    "completed": "green",
    "published": "green",
    "ok": "green",
    "running": "cyan",
    "retrying": "yellow",
    "awaiting_approval": "yellow",
    "degraded": "yellow",
    "failed": "red",
    "timed_out": "red",
    "paused": "yellow",
    "draining": "yellow",
    "suspended": "red",
    "active": "green",
    "cancelled": "dim",
    "expired": "dim",
    "needs_review": "red",
    "open": "red",
    "half_open": "yellow",
    "down": "red",
}


def escape(text: str) -> str:
    """The text with nothing in it that rich would take for markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def close_quietly() -> None:
    """Whoever read standard output has gone, such as `head`: what is left to say goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    _write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_lines(lines: Sequence[str]) -> None:
    """Lines for a script on standard output."""
    _write("".join(f"{line}\n" for line in lines))


def print_json_line(value: Any) -> None:
    """One JSON document on a line of its own, at once: one state of what is watched."""
    _write(json.dumps(value, ensure_ascii=False) + "\n", flush=True)


def _write(text: str, *, flush: bool = False) -> None:
    try:
        sys.stdout.write(text)
        if flush:
            sys.stdout.flush()
    except BrokenPipeError:
        close_quietly()
        raise typer.Exit(PIPE_CLOSED) from None


def fail(message: str) -> None:
    """An error for people, on standard error."""
    errors.print(f"[bold red]onelane:[/] {escape(message)}", soft_wrap=True)


def say(message: str) -> None:
    """A remark for people, on standard error."""
    errors.print(escape(message), soft_wrap=True)


def status_text(status: str) -> str:
    """The word in its colour, as rich markup."""
    style = _STATUS_STYLES.get(status)
    return f"[{style}]{escape(status)}[/]" if style else escape(status)
