"""When schedules fire: properties that hold for every cadence, and the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from orchestrator.control.schedule_times import Cadence, Spread, faults, next_fire, upcoming

START = datetime(2026, 1, 1, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Seoul", "America/Santiago")

moments = st.integers(0, 2 * 366 * 86_400).map(
    lambda seconds: datetime(2025, 12, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
crons = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "0 9 * * 1-5",
        "30 1,2,3 * * *",
        "0 0 29 2 *",
        "15 0 L * *",
        "5 */2 * * *",
        "0 12 1 1 *",
    ]
)
clocks = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))


@st.composite
def spreads(draw: st.DrawFn) -> Spread:
    """Whatever fits its window, often just so."""
    window = draw(st.tuples(clocks, clocks))
    first, last = (int(each[:2]) * 60 + int(each[3:]) for each in window)
    per_day = draw(st.integers(1, 60))
    room = (last - first) % 1440 * 60 / max(1, per_day - 1)
    return Spread(per_day, window, draw(st.sampled_from([0.0, 1.0, room // 2, room])))


@st.composite
def cadences(draw: st.DrawFn, kinds: tuple[str, ...] = ("cron", "every", "at", "spread")) -> Cadence:
    kind = draw(st.sampled_from(kinds))
    values: dict[str, Any] = {
        "cron": crons,
        "every": st.floats(1, 10**7, allow_nan=False),
        "at": st.lists(moments, min_size=1, max_size=20).map(tuple),
        "spread": spreads(),
    }
    made = Cadence(
        seed=draw(st.text(max_size=5)),
        starts_at=draw(moments),
        timezone=draw(st.sampled_from(ZONES)),
        jitter=0.0 if kind == "spread" else draw(st.sampled_from([0.0, 30.0, 600.0, 86_400.0])),
        ends_at=draw(st.none() | moments),
        **{kind: draw(values[kind])},
    )
    assume(not faults(made))
    return made


@given(cadences(), moments)
def test_fires_strictly_increase_within_their_bounds(cadence: Cadence, after: datetime) -> None:
    found = upcoming(cadence, after, 30)
    assert all(one < other for one, other in pairwise(found))
    for each in found:
        assert each > after
        assert each >= cadence.starts_at
        assert cadence.ends_at is None or each <= cadence.ends_at
        assert each.tzinfo is UTC


@given(cadences(), moments)
def test_a_preview_is_what_fires(cadence: Cadence, after: datetime) -> None:
    """Going from fire to fire, as the loop does, gives the list that a preview shows."""
    gone: list[datetime] = []
    last = after
    while len(gone) < 10 and (fire := next_fire(cadence, last)) is not None:
        gone.append(fire)
        last = fire
    assert gone == upcoming(cadence, after, 10)


@given(cadences(), moments, st.floats(0, 1))
def test_no_fire_is_lost_by_looking_in_between(cadence: Cadence, after: datetime, part: float) -> None:
    first = next_fire(cadence, after)
    assume(first is not None)
    assert first is not None
    between = after + (first - after) * part
    assume(between < first)
    assert next_fire(cadence, between) == first


@given(cadences(("spread",)), moments)
def test_spread_fires_keep_their_gap_and_their_number(cadence: Cadence, after: datetime) -> None:
    assert cadence.spread is not None
    found = upcoming(cadence, after, 100)
    gap = timedelta(seconds=max(1.0, cadence.spread.min_gap))
    assert all(other - one >= gap for one, other in pairwise(found))
    first, last = cadence.spread.window
    zone, counts = ZoneInfo(cadence.timezone), dict[Any, int]()
    for each in found:
        clock = each.astimezone(zone).strftime("%H:%M:%S")
        # A time that is skipped counts as the end of the gap, so one fire may come right there.
        inside = first <= clock <= last + ":00" if first < last else clock >= first or clock <= last + ":00"
        assert inside or _after_a_gap(each, zone), (clock, cadence.spread.window)
        day = each.astimezone(zone).date() - timedelta(days=first > last and clock < first)
        counts[day] = counts.get(day, 0) + 1
    assert max(counts.values(), default=0) <= cadence.spread.per_day + 1


def _after_a_gap(moment: datetime, zone: ZoneInfo) -> bool:
    before = (moment - timedelta(hours=3)).astimezone(zone)
    return before.utcoffset() != moment.astimezone(zone).utcoffset()


def local(cadence: Cadence, after: str, count: int) -> list[str]:
    zone = ZoneInfo(cadence.timezone)
    begin = datetime.fromisoformat(after).replace(tzinfo=zone)
    return [each.astimezone(zone).strftime("%d %H:%M %z") for each in upcoming(cadence, begin, count)]


def cron(expression: str, zone: str = "Europe/Berlin", **more: Any) -> Cadence:
    return Cadence("s", START, cron=expression, timezone=zone, **more)


def test_a_daily_fire_keeps_its_place_on_the_wall_clock() -> None:
    assert local(cron("0 9 * * *"), "2026-03-28T00:00", 3) == ["28 09:00 +0100", "29 09:00 +0200", "30 09:00 +0200"]
    assert local(cron("0 9 * * *"), "2026-10-24T12:00", 2) == ["25 09:00 +0100", "26 09:00 +0100"]


def test_a_skipped_time_comes_at_the_end_of_the_gap() -> None:
    assert local(cron("30 2 * * *"), "2026-03-28T12:00", 2) == ["29 03:00 +0200", "30 02:30 +0200"]
    assert local(cron("0,30 2,3 * * *"), "2026-03-28T12:00", 3) == [
        "29 03:00 +0200",
        "29 03:30 +0200",
        "30 02:00 +0200",
    ]


def test_a_time_that_comes_twice_fires_at_the_first() -> None:
    assert local(cron("30 2 * * *"), "2026-10-24T12:00", 2) == ["25 02:30 +0200", "26 02:30 +0100"]
    # Looked at between the two.
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert next_fire(cron("30 2 * * *"), second) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_what_fires_all_day_fires_in_both_passes() -> None:
    found = local(cron("*/30 * * * *"), "2026-10-25T01:30", 5)
    assert found == ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100", "25 03:00 +0100"]
    assert local(cron("0 * * * *"), "2026-03-29T00:30", 3) == ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]


def test_every_counts_real_seconds_over_a_change() -> None:
    cadence = Cadence("s", datetime(2026, 3, 28, 8, tzinfo=UTC), every=86_400, timezone="Europe/Berlin")
    assert local(cadence, "2026-03-28T09:30", 2) == ["29 10:00 +0200", "30 10:00 +0200"]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 3), ("2026-10-25", 5), ("2026-06-01", 4)])
def test_a_spread_fits_the_day_that_is_longer_or_shorter(day: str, hours: int) -> None:
    spread = Spread(per_day=5, window=("00:00", "04:00"), min_gap=3600)
    cadence = Cadence("s", START, spread=spread, timezone="Europe/Berlin")
    found = [each for each in local(cadence, f"{day}T00:00", 9) if each.startswith(day[-2:])]
    assert len(found) >= min(5, hours + 1) - 1
    assert len(found) <= 5


def test_jitter_comes_later_and_never_passes_the_next_time() -> None:
    plain, late = cron("*/5 * * * *"), cron("*/5 * * * *", jitter=86_400.0)
    after = datetime(2026, 5, 1, tzinfo=UTC)
    for nominal, fire in zip(upcoming(plain, after - timedelta(minutes=5), 50), upcoming(late, after, 50), strict=True):
        assert nominal <= fire < nominal + timedelta(minutes=5)
    other = Cadence("t", START, cron="*/5 * * * *", timezone="Europe/Berlin", jitter=86_400.0)
    assert upcoming(other, after, 9) != upcoming(late, after, 9), "two schedules do not come at one instant"


def test_an_interval_begins_at_its_start() -> None:
    cadence = Cadence("s", START, every=3600)
    assert upcoming(cadence, START - timedelta(days=1), 2) == [START, START + timedelta(hours=1)]
    assert next_fire(cadence, START) == START + timedelta(hours=1)


def test_the_calendars_ends_are_no_error() -> None:
    far = datetime(1, 1, 1, tzinfo=UTC)
    assert next_fire(Cadence("s", far, every=1.5), START) is not None
    assert next_fire(Cadence("s", far, at=(far,)), START) is None
    late = datetime(9998, 1, 1, tzinfo=UTC)
    assert len(upcoming(Cadence("s", late, every=10**8), START, 50)) < 50
    assert next_fire(cron("0 0 29 2 *"), datetime(2026, 3, 1, tzinfo=UTC)) == datetime(2028, 2, 28, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({}, [("cron",)]),
        ({"cron": "* * * * *", "every": 60.0}, [("every",)]),
        ({"cron": "61 * * * *"}, [("cron",)]),
        ({"cron": "* * * * * *"}, [("cron",)]),
        ({"cron": "@daily"}, [("cron",)]),
        ({"cron": "0 0 31 2 *"}, [("cron",)]),
        ({"every": 0.5}, [("every",)]),
        ({"at": ()}, [("at",)]),
        ({"every": 60.0, "timezone": "Europe/Bonn"}, [("timezone",)]),
        ({"every": 60.0, "timezone": "Europe"}, [("timezone",)]),
        ({"every": 60.0, "jitter": -1.0}, [("jitter",)]),
        ({"every": 60.0, "ends_at": START}, [("ends_at",)]),
        ({"spread": Spread(1, ("09:00", "21:00")), "jitter": 5.0}, [("jitter",)]),
        (
            {"spread": Spread(0, ("9:00", "24:00"), -1.0)},
            [("spread", "per_day"), ("spread", "min_gap"), ("spread", "window", 0)],
        ),
        ({"spread": Spread(2, ("09:00", "09:00"))}, [("spread", "window")]),
        ({"spread": Spread(14, ("09:00", "21:00"), 3600.0)}, [("spread", "min_gap")]),
        ({"cron": "x", "timezone": "y", "jitter": 10**6}, [("timezone",), ("cron",), ("jitter",)]),
    ],
)
def test_each_fault_is_found_at_its_place(fields: dict[str, Any], places: list[tuple[Any, ...]]) -> None:
    assert [each.loc for each in faults(Cadence("s", START, **fields))] == places


@given(st.text("0123456789*/,-L#WMON UTED", max_size=30), moments)
@example("0 0 30 2 *", START)
@example("0 0 L 2 MON#5", START)
def test_any_text_is_a_cron_expression_or_a_fault(text: str, after: datetime) -> None:
    cadence = cron(text, jitter=60.0)
    if not faults(cadence):
        upcoming(cadence, after, 3)
