"""Checks the result by two sources: the attempts in the service's database, and the demo blog's own posts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from ..demo_blog.store import BlogStore
from .texts import DemoAccount

_ALL_POSTS = 1_000_000


@dataclass(frozen=True, slots=True)
class QueueReport:
    """The attempts of one tenant queue. `most_at_once` above 1, or an overlap, is a violation."""

    queue: str
    lane: str
    account: str
    steps: int
    attempts: int
    completed: int
    busy_seconds: float
    mean_seconds: float
    longest_wait_seconds: float
    most_at_once: int
    overlaps: int


@dataclass(frozen=True, slots=True)
class BlogReport:
    """An account's posts in the demo blog, compared with the drafts that the service has as published."""

    account: str
    username: str
    expected: int
    found: int
    missing: tuple[str, ...]
    doubled: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def exactly_once(self) -> bool:
        return not (self.missing or self.doubled or self.unknown)


def queue_reports(jobs: Iterable[Mapping[str, Any]]) -> list[QueueReport]:
    """A report for each tenant queue of the jobs."""
    steps: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for job in jobs:
        for step in job["steps"]:
            if step["attempts"]:
                steps[step["lane"], job["account"]].append(step)
    return [_report(lane, account, found) for (lane, account), found in sorted(steps.items())]


def _report(lane: str, account: str, steps: Sequence[Mapping[str, Any]]) -> QueueReport:
    attempts = [attempt for step in steps for attempt in step["attempts"]]
    spans = spans_of(attempts)
    busy = sum((end - start).total_seconds() for start, end in spans)
    waits = [
        (_time(step["attempts"][0]["started_at"]) - _time(step["queued_at"])).total_seconds()
        for step in steps
        if step["queued_at"] and len(step["attempts"]) == 1
    ]
    return QueueReport(
        queue=f"{lane}_{account}",
        lane=lane,
        account=account,
        steps=len(steps),
        attempts=len(attempts),
        completed=sum(attempt["outcome"] == "completed" for attempt in attempts),
        busy_seconds=busy,
        mean_seconds=busy / len(spans) if spans else 0.0,
        longest_wait_seconds=max(waits, default=0.0),
        most_at_once=most_at_once(spans),
        overlaps=overlaps(spans),
    )


def spans_of(attempts: Iterable[Mapping[str, Any]]) -> list[tuple[datetime, datetime]]:
    """Start and end of the attempts that ended, in order of their start."""
    return sorted((_time(each["started_at"]), _time(each["finished_at"])) for each in attempts if each["finished_at"])


def overlaps(spans: Sequence[tuple[datetime, datetime]]) -> int:
    """How many attempts started before another one of the same queue had ended."""
    count = 0
    latest: datetime | None = None
    for start, end in sorted(spans):
        if latest is not None and start < latest:
            count += 1
        latest = end if latest is None else max(latest, end)
    return count


def most_at_once(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """The largest number of attempts at one moment; an end at the moment of a start comes first."""
    moments = sorted(moment for start, end in spans for moment in ((start, 1), (end, -1)))
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def blog_report(account: DemoAccount, blog: BlogStore, published_urls: Iterable[str]) -> BlogReport:
    """Compare the posts in the blog with those that the service has as published."""
    posts = blog.posts(account.username, limit=_ALL_POSTS)
    expected = Counter(urlsplit(url).path for url in published_urls)
    paths = {post.path for post in posts}
    asked = Counter(post.marker for post in posts)
    return BlogReport(
        account=account.account,
        username=account.username,
        expected=expected.total(),
        found=len(posts),
        missing=tuple(sorted(set(expected) - paths)),
        # The blog gives a second post with the same marker another path, so duplicates are found by the marker.
        doubled=tuple(sorted({marker for marker, count in asked.items() if count > 1})),
        unknown=tuple(sorted(paths - set(expected))),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
