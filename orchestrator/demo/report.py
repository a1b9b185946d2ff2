"""The result of a demo: as JSON, and as tables for a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..terminal import status_text
from .proof import BlogReport, QueueReport
from .texts import Skipped

_WIDEST = 2000


@dataclass(slots=True)
class Report:
    """What the demo found; `ok` only if each text was published exactly once for each account."""

    posts: list[dict[str, Any]]
    queues: list[QueueReport]
    blogs: list[BlogReport]
    skipped: list[Skipped]
    seconds: float
    published_now: int
    most_at_once: int
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def overlaps(self) -> int:
        return sum(queue.overlaps for queue in self.queues)

    @property
    def ok(self) -> bool:
        return (
            all(post["status"] == "completed" for post in self.posts)
            and all(blog.exactly_once for blog in self.blogs)
            and self.overlaps == 0
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "published_now": self.published_now,
            "posts_per_minute": round(self.published_now / self.seconds * 60, 1) if self.seconds else 0.0,
            "most_at_once": self.most_at_once,
            "overlaps": self.overlaps,
            "posts": self.posts,
            "queues": [asdict(queue) for queue in self.queues],
            "blogs": [{**asdict(blog), "exactly_once": blog.exactly_once} for blog in self.blogs],
            "skipped": [asdict(each) for each in self.skipped],
            "addresses": self.addresses,
        }


def print_report(report: Report, console: Console) -> None:
    """Print the posts, the tenant queues, the blog's own counts, and a summary."""
    for table in (_posts(report), _queues(report), _blogs(report)):
        # As wide as needed, whatever the terminal's width: a wrapped URL cannot be clicked.
        width = Console(width=_WIDEST).measure(table).maximum
        Console(file=console.file, width=width, force_terminal=console.is_terminal).print(table)
    console.print(_summary(report), soft_wrap=True)


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


def _summary(report: Report) -> str:
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
