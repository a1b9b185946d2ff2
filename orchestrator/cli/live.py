"""Live views: a job with its progress, and a list that is refreshed.

If standard output is not a terminal, each new state is a line or a table; with `--json`, a line of JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..client import Resource
from ..terminal import console, print_json_line, say, status_text
from .output import ago, print_table, table_of

#: How often a list is refreshed.
LIST_SECONDS = 2.0
_BAR = 20


def watch_rows(
    fetch: Callable[[], Iterable[Resource]],
    columns: Sequence[str],
    *,
    empty: str,
    for_people: Callable[[Resource], Resource],
    json: bool,
) -> None:
    """Show a list, and again each time it has changed, until Ctrl-C."""
    last: list[dict[str, Any]] | None = None
    if json or not console.is_terminal:
        while True:
            rows = [dict(each) for each in fetch()]
            if rows != last and json:
                print_json_line({"items": rows})
            elif rows != last:
                print_table([for_people(each) for each in rows], columns, empty=empty)
            last = rows
            time.sleep(LIST_SECONDS)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            shown = [for_people(each) for each in fetch()]
            head = Text(f"{len(shown)} at {time.strftime('%H:%M:%S')}; Ctrl-C ends", style="dim")
            live.update(Group(head, table_of(shown, columns) if shown else Text(empty)), refresh=True)
            time.sleep(LIST_SECONDS)


def watch_job(states: Iterable[Resource], *, json: bool, until: str | None = None) -> Resource | None:
    """Show a job each time it has changed; returns it when it has ended, or has the status `until`."""
    job: Resource | None = None
    if not json and console.is_terminal:
        with Live(console=console, refresh_per_second=8) as live:
            for job in states:
                live.update(_job(job))
                if job["status"] == until:
                    break
        return job
    for job in states:
        if json:
            print_json_line(job)
        else:
            steps = "  ".join(f"{step['name']} {step['status']} {step['progress']} %" for step in job["steps"])
            console.print(f"{job['status']}  {steps}", markup=False, soft_wrap=True)
        if job["status"] == until:
            break
        if job["status"] == "awaiting_approval":
            say(_approval(job))
    return job


def _job(job: Resource) -> Group:
    place = "" if job["queue_position"] is None else f"  {job['queue_position']} before it"
    head = f"[bold]{escape(job['id'])}[/]  {status_text(job['status'])}  {escape(job['account'])}{place}"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "status", "try", "", "%", "since", "note"):
        table.add_column(name, overflow="fold", no_wrap=name in ("status", "try", "%", "since"))
    for step in job["steps"]:
        since = step["finished_at"] or step["started_at"] or step["queued_at"]
        table.add_row(
            escape(step["name"]),
            status_text(step["status"]),
            f"{step['attempt']}/{step['max_attempts']}",
            ProgressBar(total=100, completed=step["progress"], width=_BAR),
            str(step["progress"]),
            ago(since) if since else "-",
            escape(step["note"] or ""),
        )
    parts: list[Any] = [Text.from_markup(head), table]
    if job["status"] == "awaiting_approval":
        parts.append(Text(_approval(job), style="yellow"))
    return Group(*parts)


def _approval(job: Resource) -> str:
    return f"It waits for `onelane jobs approve {job['id']}` or `reject`."
