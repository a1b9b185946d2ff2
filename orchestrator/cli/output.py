"""The tables of the command line: rows, an account, a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..terminal import PIPED_WIDTH, console, escape, print_lines, say, status_text

if TYPE_CHECKING:
    from rich.table import Table

#: Characters of a cell in one line of a terminal; longer ones are folded.
MAX_CELL = 40


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
    # As wide as needed, without folding: programs read lines, and people cannot read broken words.
    table.width = size.maximum
    if console.is_terminal:
        console.print(table, crop=False, soft_wrap=True)
        return
    with console.capture() as captured:
        console.print(table, crop=False, soft_wrap=True)
    print_lines([line.rstrip() for line in captured.get().splitlines()])


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """The rows as a table that fits the terminal; without a terminal, no cell is folded."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        whole = column in ("id", "status", "queue", "url") or not console.is_terminal  # for copying
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
    """An account's status, target, session, usage of today, and limits."""
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
    """A job: head, steps with their attempts, result or error."""
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
