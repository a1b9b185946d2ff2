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

#: The width without a terminal, so that no line is folded.
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
    """A console that imports its library at its first use: commands that print JSON do not need it."""

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
    """The text, escaped for rich's markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def close_quietly() -> None:
    """Discard further output: the reader of standard output, such as `head`, has ended."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    _write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_lines(lines: Sequence[str]) -> None:
    """Lines for a script on standard output."""
    _write("".join(f"{line}\n" for line in lines))


def print_json_line(value: Any) -> None:
    """One JSON document on its own line, flushed: one state of a watched resource."""
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
