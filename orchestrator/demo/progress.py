"""The demo's live view: a table of accounts on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text as RichText

from .texts import ACCOUNTS

Job = Mapping[str, Any]

_FAILED = frozenset({"failed", "timed_out", "cancelled", "expired"})


class Progress:
    """Shows the changes between successive states of all jobs."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        """Set up the view; nothing is shown yet.

        Args:
            console: where to write.
            names: the text's name by job id.
        """
        self._console = console
        self._names = names
        self._began = time.monotonic()
        self._live: Live | None = None
        self._last: dict[str, str] = {}
        #: True for the first state: posts in it were published before this run.
        self._first = True

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live view inside the `with`; without a terminal, only lines are printed."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8, transient=True) as live:
            self._live = live
            yield
        self._live = None

    def update(self, jobs: Sequence[Job], running: Mapping[str, Job], urls: Mapping[str, str]) -> None:
        """Show the present state.

        Args:
            jobs: summaries of all jobs.
            running: the complete running jobs, by id.
            urls: the posts' URLs, by job id.
        """
        self._first = not self._last
        for job in jobs:
            self._print_change(job, running.get(job["id"]), urls)
        if self._live is not None:
            self._live.update(self._view(jobs, running))

    def _print_change(self, job: Job, whole: Job | None, urls: Mapping[str, str]) -> None:
        """One line for each post, each failure, and (without a terminal) each step that starts."""
        step = job["current_step"] if job["status"] == "running" else None
        state = f"{job['status']} {step or ''}"
        if self._last.get(job["id"]) == state:
            return
        self._last[job["id"]] = state
        name, account = self._names.get(job["id"], "?"), job["account"]
        if job["status"] == "completed" and job["id"] in urls:
            self._line("was there" if self._first else "published", "green", account, name, urls[job["id"]])
        elif job["status"] in _FAILED:
            error = job["error"] or {"code": "-", "message": "-"}
            self._line(job["status"], "red", account, name, f"{error['code']}: {error['message']}")
        elif step and self._live is None:
            self._line(step, "cyan", account, name, _note(whole))

    def _line(self, word: str, style: str, account: str, name: str, rest: str) -> None:
        self._console.print(
            f"{time.monotonic() - self._began:6.1f} s  [{style}]{escape(word):<10}[/] {escape(_padded(account, 18))} "
            f"{escape(_padded(name, 24))} {escape(rest)}",
            soft_wrap=True,
        )

    def _view(self, jobs: Sequence[Job], running: Mapping[str, Job]) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        for head in ("account", "waiting", "generate", "publish", "published", "failed"):
            table.add_column(head, justify="left" if head == "account" else "right", no_wrap=True)
        table.add_column("now", ratio=1, overflow="ellipsis", no_wrap=True)
        for account in ACCOUNTS:
            own = [job for job in jobs if job["account"] == account.account]
            counts = Counter(_column(job) for job in own)
            now = [
                f"{self._names.get(job['id'], '?')}: {_note(running.get(job['id']))}"
                for job in own
                if job["status"] == "running"
            ]
            table.add_row(
                escape(account.account),
                str(counts["waiting"]),
                _number(counts["generate"], "cyan"),
                _number(counts["publish"], "cyan"),
                _number(counts["published"], "green"),
                _number(counts["failed"], "red"),
                escape("   ".join(now)),
            )
        done = sum(job["status"] == "completed" for job in jobs)
        seconds = time.monotonic() - self._began
        summary = RichText(f"{done} of {len(jobs)} posts published, {seconds:.0f} s")
        return Group(RichText(), table, summary, ProgressBar(total=len(jobs) or 1, completed=done, width=60))


def _column(job: Job) -> str:
    if job["status"] == "completed":
        return "published"
    if job["status"] in _FAILED:
        return "failed"
    return str(job["current_step"]) if job["status"] == "running" else "waiting"


def _note(job: Job | None) -> str:
    for step in job["steps"] if job else ():
        if step["status"] == "running":
            return f"{step['note'] or step['name']} ({step['progress']} %)"
    return ""


def _number(count: int, style: str) -> str:
    return f"[{style}]{count}[/]" if count else "0"


def _padded(text: str, cells: int) -> str:
    """The text padded to so many terminal cells; East Asian letters take two."""
    return text + " " * max(0, cells - cell_len(text))
