"""What commands print: tables for people on standard output, `--json` for programs, errors on standard error.

Invariant: with `--json`, standard output carries exactly one JSON document, whatever else is said; while something is
watched, one a line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import typer

from . import PIPE_CLOSED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Characters of a cell in one line of a terminal; longer ones are folded.
MAX_CELL = 40
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


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """A table of the rows' columns; `status` columns are coloured, times are shown as how long ago."""
    if not rows:
        say(empty)
        return
    from rich.measure import Measurement

    table = table_of(rows, columns)
    size = Measurement.get(console, console.options.update(max_width=PIPED_WIDTH), table)
    if console.is_terminal and size.minimum <= console.width < size.maximum:
        console.print(table)  # folded between words
        return
    # As wide as it needs to be, as other tools do: a program reads lines, and nobody reads broken words.
    table.width = size.maximum
    console.print(table, crop=False, soft_wrap=True)


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """The rows as a table that fits into the terminal; where there is none, no cell is folded."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        whole = column in ("id", "status", "queue", "url") or not console.is_terminal  # there to be copied
        table.add_column(
            column.replace("_", " "), overflow="fold", no_wrap=whole, max_width=None if whole else MAX_CELL
        )
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    return table


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column == "status":
        return status_text(str(value))
    if column == "until" or column.endswith("_at"):
        return ago(str(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column == "circuit":
        return f"{status_text(value['status'])}, {ago(value['until'])}"
    if isinstance(value, Mapping):
        return escape(str(value.get("code") or value.get("message") or json.dumps(value, ensure_ascii=False)))
    if isinstance(value, list | tuple):
        return escape(", ".join(str(each) for each in value))
    if isinstance(value, float):
        return f"{value:.1f}"
    return escape(str(value))


def ago(time: str) -> str:
    """`2026-01-01T00:00:00+00:00` as `5 min ago` or `in 5 min`."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    size = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if size >= length:
            text = f"{size / length:.0f} {unit}"
            break
    else:
        text = f"{size:.0f} s"
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def print_account(account: Mapping[str, Any]) -> None:
    """An account's head: status, target, session, what it used today, limits that differ from the defaults."""
    console.print(f"[bold]{escape(account['account'])}[/]  {status_text(account['status'])}")
    target, session, today = account["target"], account["session"], account["usage"]["today"]
    where = f"{target['publisher']} at {target['base_url']}" if target else "none; jobs that publish need one"
    until = f", until {session['expires_at']}" if session["expires_at"] else ""
    used = ", ".join(f"{round(today[name], 1):,} {name}" for name in ("jobs", "seconds", "tokens", "posts", "bytes"))
    for name, text in (("target", where), ("session", session["status"] + until), ("today", used)):
        console.print(f"  {name:8} {escape(text)}")
    limits = {name: value for name, value in account["limits"].items() if value not in (None, {})}
    console.print(f"  {'limits':8} {escape(json.dumps(limits, ensure_ascii=False))}")


def print_job(job: Mapping[str, Any]) -> None:
    """A job whole: head, steps with their attempts, result or error."""
    console.print(f"[bold]{escape(job['id'])}[/]  {status_text(job['status'])}  {job['progress']} %")
    console.print(f"  {escape(job['pipeline'])} for {escape(job['account'])}, made {ago(job['created_at'])}")
    if job.get("queue_position") is not None:
        console.print(f"  position in its queue: {job['queue_position']}")
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("step", "lane", "status", "attempt", "%", "note", "last outcome"):
        table.add_column(head, overflow="fold")
    for step in job["steps"]:
        attempts = step["attempts"]
        table.add_row(
            escape(step["name"]),
            escape(step["lane"]),
            status_text(step["status"]),
            f"{step['attempt']}/{step['max_attempts']}",
            str(step["progress"]),
            escape(step["note"] or ""),
            escape(str(attempts[-1]["outcome"] or "runs")) if attempts else "-",
        )
    console.print(table)
    if job["error"]:
        error = job["error"]
        console.print(f"[red]{escape(error['code'])}[/] in {escape(str(error['step']))}: {escape(error['message'])}")
    if job["result"]:
        console.print_json(json.dumps(job["result"], ensure_ascii=False))
