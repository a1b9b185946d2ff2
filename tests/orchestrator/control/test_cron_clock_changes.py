"""Cron over clock changes: every change of every IANA zone in three years, against an oracle that counts minutes.

The oracle shares no code with the product: it walks real minutes, reads the wall clock at each, and knows the
expressions as plain sets of minutes and hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest

from orchestrator.control.schedule_times import Cadence, fires

BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
AROUND = timedelta(hours=5)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Expression:
    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    #: `*` in the minute or the hour: skipped times do not fire, repeated ones fire twice.
    wildcard: bool

    def matches(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours


def expression(minute: str, minutes: range | set[int], hour: str, hours: range | set[int]) -> Expression:
    wildcard = minute.startswith("*") or hour.startswith("*")
    return Expression(f"{minute} {hour} * * *", frozenset(minutes), frozenset(hours), wildcard)


EVERY_HOUR = range(24)
EXPRESSIONS = [
    expression("*", range(60), "*", EVERY_HOUR),
    expression("*/15", range(0, 60, 15), "2", {2}),
    expression("*/15", range(0, 60, 15), "*", EVERY_HOUR),
    expression("0", {0}, "*/2", range(0, 24, 2)),
    expression("45", {45}, "*", EVERY_HOUR),
    expression("30", {30}, "0-5", range(6)),
    expression("0,15,30,45", {0, 15, 30, 45}, "0,1,2,3,22,23", {0, 1, 2, 3, 22, 23}),
    expression("7,52", {7, 52}, "1-23/2", range(1, 24, 2)),
]


@dataclass(frozen=True)
class Change:
    """A zone's clock goes from one offset to another at this instant."""

    at: datetime
    before: timedelta
    after: timedelta


def offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    found = moment.astimezone(zone).utcoffset()
    assert found is not None
    return found


def changes_of(zone: ZoneInfo) -> Iterator[Change]:
    # No zone of these years changes its clock twice within a week.
    step, moment = timedelta(days=7), BEGIN
    while moment < END:
        if offset(moment, zone) != offset(moment + step, zone):
            low, high = moment, moment + step
            while high - low > MINUTE:
                middle = low + (high - low) // 2
                middle -= timedelta(seconds=middle.second, microseconds=middle.microsecond)
                low, high = (middle, high) if offset(middle, zone) == offset(low, zone) else (low, middle)
            yield Change(high, offset(low, zone), offset(high, zone))
        moment += step


@cache
def all_changes() -> dict[Change, str]:
    """Each change with one zone that has it. Zones with the same offsets around it cannot differ in what fires."""
    found: dict[Change, str] = {}
    for name in sorted(available_timezones()):
        for change in changes_of(ZoneInfo(name)):
            found.setdefault(change, name)
    return found


def oracle(cron: Expression, change: Change, zone: ZoneInfo) -> set[datetime]:
    """What must fire within `AROUND` of a change, minute by minute of real time."""
    passes: dict[datetime, list[datetime]] = {}
    moment = change.at - AROUND
    while moment <= change.at + AROUND:
        passes.setdefault(moment.astimezone(zone).replace(tzinfo=None, fold=0), []).append(moment)
        moment += MINUTE
    found = set[datetime]()
    for wall, moments in passes.items():
        if cron.matches(wall):
            found.update(moments if cron.wildcard else moments[:1])
    skipped = (change.at + change.before).replace(tzinfo=None)
    while not cron.wildcard and skipped < (change.at + change.after).replace(tzinfo=None):
        if cron.matches(skipped):
            found.add(change.at)
        skipped += MINUTE
    return found


def fired(cron: Expression, change: Change, name: str, after: datetime) -> list[datetime]:
    cadence = Cadence("s", BEGIN - timedelta(days=9), cron=cron.text, timezone=name)
    return list(takewhile(lambda each: each <= change.at + AROUND, fires(cadence, after)))


def test_the_years_hold_changes_of_all_sorts() -> None:
    sizes = {change.after - change.before for change in all_changes()}
    assert {timedelta(minutes=30), -timedelta(minutes=30), timedelta(hours=1), -timedelta(hours=1)} <= sizes
    assert len(all_changes()) > 50


@pytest.mark.parametrize("cron", EXPRESSIONS, ids=lambda each: each.text)
def test_every_clock_change_of_three_years_comes_out_right(cron: Expression) -> None:
    for change, name in all_changes().items():
        expected = sorted(oracle(cron, change, ZoneInfo(name)))
        after = change.at - AROUND - MINUTE
        assert fired(cron, change, name, after) == expected, (name, change)


@pytest.mark.parametrize("cron", EXPRESSIONS, ids=lambda each: each.text)
def test_looking_from_any_moment_around_a_change_finds_the_same_fires(cron: Expression) -> None:
    """The loop asks again from each fire on, and from any moment after a restart."""
    for name in ("Australia/Lord_Howe", "Europe/Berlin"):
        for change in islice(changes_of(ZoneInfo(name)), 2):
            expected = sorted(oracle(cron, change, ZoneInfo(name)))
            for minutes in range(-90, 91, 7):
                after = change.at + minutes * MINUTE
                assert fired(cron, change, name, after) == [each for each in expected if each > after], (name, after)
