"""The demo's closing tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..cli.output import status_text

if TYPE_CHECKING:
    from .run import Report

_WIDEST = 2000


def print_report(report: Report, console: Console) -> None:
    """The posts, what each tenant queue did, what the blog itself says, and the sum of it."""
    for table in (_posts(report), _queues(report), _blogs(report)):
        # As wide as it needs to be, whatever the terminal's width: a URL cut short or wrapped cannot be clicked on.
        width = Console(width=_WIDEST).measure(table).maximum
        Console(file=console.file, width=width, force_terminal=console.is_terminal).print(table)
    console.print(_sum(report), soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.strip(), justify="right" if column.startswith(" ") else "left", no_wrap=True)
    return table


def _posts(report: Report) -> Table:
    table = _table("Posts", "account", "file", "status", "URL")
    for post in report.posts:
        error = post["error"] or {}
        where = post["url"] or f"{error.get('code', '-')}: {error.get('message', '')}"
        table.add_row(escape(post["account"]), escape(post["file"]), status_text(post["status"]), escape(where))
    return table


def _queues(report: Report) -> Table:
    table = _table(
        "Tenant queues, from the attempts in the database",
        *("tenant queue", " steps", " attempts", " done", " busy s", " mean s", " max wait s", " at once"),
        " overlaps",
    )
    for queue in report.queues:
        table.add_row(
            escape(queue.queue),
            str(queue.steps),
            str(queue.attempts),
            str(queue.completed),
            f"{queue.busy_seconds:.1f}",
            f"{queue.mean_seconds:.2f}",
            f"{queue.longest_wait_seconds:.1f}",
            str(queue.most_at_once),
            "[green]0[/]" if not queue.overlaps else f"[bold red]{queue.overlaps}[/]",
        )
    return table


def _blogs(report: Report) -> Table:
    table = _table(
        "The demo blog's own count", "account", "blog", " published", " there", " missing", " doubled", " unaccounted"
    )
    for blog in report.blogs:
        bad = [f"[bold red]{len(each)}[/]" if each else "0" for each in (blog.missing, blog.doubled, blog.unknown)]
        table.add_row(escape(blog.account), escape(blog.username), str(blog.expected), str(blog.found), *bad)
    return table


def _sum(report: Report) -> str:
    completed = sum(post["status"] == "completed" for post in report.posts)
    lines = [
        (
            f"\n{completed} of {len(report.posts)} posts are published, {report.published_now} of them in this run"
            f" ({report.seconds:.1f} s, {report.published_now / max(report.seconds, 0.001) * 60:.0f} posts a minute);"
            f" up to {report.most_at_once} steps at once over all accounts,"
            f" {report.overlaps} overlaps within a tenant queue."
        ),
    ]
    if report.ok:
        lines.append("[bold green]Every text was published exactly once for every account.[/]")
    else:
        lines.append("[bold red]Not everything was published exactly once; see above.[/]")
    return "\n".join(lines)
