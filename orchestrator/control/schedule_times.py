"""When a schedule fires: a pure function of its cadence, without a clock, a database or a memory of earlier fires.

cronsim evaluates cron expressions on local times without a zone. This module translates local times into instants, also
those that clock changes skip or repeat (cronsim itself assumes clock changes of whole hours, and loses fires in
Australia/Lord_Howe). Zones are zoneinfo's.

Invariants
- The fires after a time depend only on the cadence, so a preview is exact, and all control planes agree. Jitter and
  spread are drawn from the cadence's seed.
- Fires strictly increase, and lie between `starts_at` and `ends_at`, both included.
- A jittered fire comes before the cadence's next time. Spread fires keep `min_gap`, also over midnight and where a
  clock change makes the window shorter; then there are fewer of them that day.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from tenants.errors import Fault

SHORTEST_EVERY_SECONDS = 1.0
#: Ten years.
LONGEST_EVERY_SECONDS = 10 * 366 * 86_400.0
LONGEST_JITTER_SECONDS = 86_400.0
#: Half a day: longer gaps between fires of one day do not fit on a day on which the clock is set forward.
LONGEST_GAP_SECONDS = 43_200.0
MOST_PER_DAY = 1000
MOST_TIMES = 1000
MAX_CRON_CHARACTERS = 200

_DAY_SECONDS = 86_400
_SMALLEST = timedelta(microseconds=1)
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|(24):(00)", re.ASCII)
KINDS = ("cron", "every", "at", "spread")


@dataclass(frozen=True, slots=True)
class Spread:
    """`per_day` fires at drawn times of each day's window (`HH:MM`, over midnight if the end is the earlier)."""

    per_day: int
    window: tuple[str, str]
    min_gap: float = 0.0


@dataclass(frozen=True, slots=True)
class Cadence:
    """When to fire: exactly one of `cron`, `every` (seconds), `at` and `spread` is given. All times are aware."""

    #: Jitter and spread are drawn from it.
    seed: str
    #: `every` counts from here.
    starts_at: datetime
    cron: str | None = None
    every: float | None = None
    at: tuple[datetime, ...] | None = None
    spread: Spread | None = None
    timezone: str = "UTC"
    #: Seconds by which a fire may come later.
    jitter: float = 0.0
    ends_at: datetime | None = None


def next_fire(cadence: Cadence, after: datetime) -> datetime | None:
    """The first fire later than `after`, in UTC; None when there is none."""
    return next(fires(cadence, after), None)


def upcoming(cadence: Cadence, after: datetime, count: int) -> list[datetime]:
    """Up to `count` fires later than `after`."""
    return list(islice(fires(cadence, after), count))


def fires(cadence: Cadence, after: datetime) -> Iterator[datetime]:
    """All fires later than `after`, in UTC, ascending. The cadence must have no `faults`."""
    after = after.astimezone(UTC)
    if cadence.starts_at > after:
        after = cadence.starts_at - _SMALLEST
    ahead = _nominal(cadence, after)
    nominal = next(ahead, None)
    while nominal is not None and (cadence.ends_at is None or nominal <= cadence.ends_at):
        following = next(ahead, None)
        if nominal >= cadence.starts_at:
            fire = nominal + _jitter(cadence, nominal, following)
            if fire > after:
                yield fire
                after = fire
        nominal = following


def faults(cadence: Cadence) -> list[Fault]:
    """All faults of a cadence, with their fields."""
    found = _kind_faults(cadence)
    if not is_zone(cadence.timezone):
        found.append(Fault(("timezone",), f"{cadence.timezone!r} is no IANA time zone; one is Europe/Berlin"))
    if cadence.cron is not None:
        found += _cron_faults(cadence.cron)
    if cadence.every is not None and not SHORTEST_EVERY_SECONDS <= cadence.every <= LONGEST_EVERY_SECONDS:
        found.append(Fault(("every",), f"it must be {SHORTEST_EVERY_SECONDS:.0f} to {LONGEST_EVERY_SECONDS:.0f} s"))
    if cadence.at is not None and not 1 <= len(cadence.at) <= MOST_TIMES:
        found.append(Fault(("at",), f"give 1 to {MOST_TIMES} times"))
    if cadence.spread is not None:
        found += _spread_faults(cadence.spread)
    if not 0 <= cadence.jitter <= LONGEST_JITTER_SECONDS:
        found.append(Fault(("jitter",), f"it must be 0 to {LONGEST_JITTER_SECONDS:.0f} s"))
    elif cadence.jitter and cadence.spread is not None:
        found.append(Fault(("jitter",), "spread draws its times already; leave jitter out"))
    if cadence.ends_at is not None and cadence.ends_at <= cadence.starts_at:
        found.append(Fault(("ends_at",), "it must be later than starts_at, which is now if it is not given"))
    return found


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def is_zone(name: str) -> bool:
    return name in _zones()


# --- times before jitter -------------------------------------------------------------------------------------------


def _nominal(cadence: Cadence, after: datetime) -> Iterator[datetime]:
    """Times without jitter, ascending, from the last one up to `after`, or an earlier one."""
    if cadence.cron is not None:
        return _cron(cadence, cadence.cron, after)
    if cadence.every is not None:
        return _every(cadence.starts_at, cadence.every, after)
    if cadence.at is not None:
        times = sorted({each.astimezone(UTC) for each in cadence.at})
        return iter(times[max(0, bisect.bisect_right(times, after) - 1) :])
    assert cadence.spread is not None, "one kind is given"
    return _spread(cadence, cadence.spread, after)


def _cron(cadence: Cadence, expression: str, after: datetime) -> Iterator[datetime]:
    zone = ZoneInfo(cadence.timezone)
    begin = after
    if cadence.jitter:
        # The last time up to `after` may be jittered to a later one. It is searched back in growing steps.
        back = 64.0
        while True:
            begin = after - timedelta(seconds=min(back, cadence.jitter))
            first = next(_cron_after(expression, begin, zone), None)
            if back >= cadence.jitter or (first is not None and first <= after):
                break
            back *= 4
    return _cron_after(expression, begin, zone)


def _cron_after(expression: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Fires later than `after`, ascending.

    A local time that exists once fires once. With `*` or `*/n` as minute or hour a skipped time does not fire and a
    repeated one fires twice; with fixed minutes and hours a skipped time fires at the end of the gap, and a repeated
    one at its first occurrence. This is the behaviour of Debian's cron.
    """
    wildcard = any(part.startswith("*") for part in expression.split()[:2])
    last = after
    for moment in _in_order(_wall_times(expression, after, zone), zone, wildcard):
        # Several skipped times end at the same instant.
        if moment > last:
            yield moment
            last = moment


def _wall_times(expression: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Matching local times, ascending, from the first one with an instant later than `after`, or an earlier one."""
    begin = after.astimezone(zone)
    ahead = begin.replace(fold=0).utcoffset(), begin.replace(fold=1).utcoffset()
    assert ahead[0] is not None
    assert ahead[1] is not None
    # During the first occurrence of a repeated hour, earlier local times occur again.
    repeated = max(timedelta(), ahead[0] - ahead[1]) if begin.fold == 0 else timedelta()
    try:
        yield from CronSim(expression, begin.replace(tzinfo=None) - repeated)
    except OverflowError:  # the end of the calendar
        return


def _in_order(wall_times: Iterator[datetime], zone: ZoneInfo, wildcard: bool) -> Iterator[datetime]:
    """The instants of ascending local times, in ascending order.

    First occurrences ascend with the local times; a second one is emitted once a first one is later.
    """
    second_passes: deque[datetime] = deque()
    for local in wall_times:
        if wildcard and not _exists(local, zone):
            continue
        first = _first_instant(local, zone)
        while second_passes and second_passes[0] < first:
            yield second_passes.popleft()
        yield first
        if wildcard and (second := local.replace(tzinfo=zone, fold=1).astimezone(UTC)) > first:
            second_passes.append(second)
    yield from second_passes


def _every(start: datetime, every: float, after: datetime) -> Iterator[datetime]:
    step = timedelta(seconds=every)
    count = max(0, (after - start) // step)
    while True:
        try:
            yield (start + count * step).astimezone(UTC)
        except OverflowError:  # the end of the calendar
            return
        count += 1


def _spread(cadence: Cadence, spread: Spread, after: datetime) -> Iterator[datetime]:
    zone = ZoneInfo(cadence.timezone)
    # A window over midnight begins on the day before.
    day = after.astimezone(zone).date() - timedelta(days=1)
    while True:
        yield from _times_of_day(cadence.seed, spread, day, zone)
        day += timedelta(days=1)


def _times_of_day(seed: str, spread: Spread, day: date, zone: ZoneInfo) -> Iterator[datetime]:
    """Draws each fire from its own part of the window, so that they spread over all of it."""
    gap = _whole_gap(spread)
    first, last = (_minutes(each) for each in spread.window)
    start, following = _instant(day, first, zone), _instant(day + timedelta(days=1), first, zone)
    end = _instant(day, last if last > first else last + 1440, zone)
    room = max(0, int((min(end, following - timedelta(seconds=gap)) - start).total_seconds()))
    count = min(spread.per_day, room // gap + 1)
    slack = room - (count - 1) * gap
    for index in range(count):
        drawn = slack * (index + _draw(seed, day.isoformat(), str(index))) / count
        yield start + timedelta(seconds=int(drawn) + index * gap)


def _instant(day: date, minutes: int, zone: ZoneInfo) -> datetime:
    """The instant of a day's local time, given as minutes after midnight."""
    return _first_instant(datetime(day.year, day.month, day.day) + timedelta(minutes=minutes), zone)  # noqa: DTZ001 a local time has no zone


def _first_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a local time: the end of the gap for a skipped one, the first for a repeated one."""
    while not _exists(local, zone):
        local += timedelta(minutes=1)
    return local.replace(tzinfo=zone).astimezone(UTC)


def _exists(local: datetime, zone: ZoneInfo) -> bool:
    return local.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local


# --- draws ---------------------------------------------------------------------------------------------------------


def _jitter(cadence: Cadence, nominal: datetime, following: datetime | None) -> timedelta:
    if not cadence.jitter:
        return timedelta()
    room = cadence.jitter
    if following is not None:
        room = min(room, (following - nominal).total_seconds())
    if cadence.ends_at is not None:
        room = min(room, (cadence.ends_at - nominal).total_seconds())
    return timedelta(seconds=int(room * _draw(cadence.seed, nominal.isoformat())))


def _draw(*words: str) -> float:
    """A number of [0, 1) that depends only on the words, on every machine and version."""
    digest = hashlib.blake2b("\x00".join(words).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


# --- faults --------------------------------------------------------------------------------------------------------


def _kind_faults(cadence: Cadence) -> list[Fault]:
    given = [kind for kind in KINDS if getattr(cadence, kind) is not None]
    if not given:
        return [Fault((KINDS[0],), f"give one of {', '.join(KINDS)}")]
    return [Fault((kind,), f"give one of {', '.join(KINDS)}; {given[0]} is given too") for kind in given[1:]]


def _cron_faults(expression: str) -> list[Fault]:
    message = None
    if len(expression) > MAX_CRON_CHARACTERS:
        message = f"it is longer than {MAX_CRON_CHARACTERS} characters"
    elif len(expression.split()) != 5:
        message = "it must have five fields: minute, hour, day of the month, month, day of the week"
    else:
        try:
            CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            message = f"its {str(error).removeprefix('Bad ')} cannot be read"
    return [] if message is None else [Fault(("cron",), message)]


def _spread_faults(spread: Spread) -> list[Fault]:
    found = []
    if not 1 <= spread.per_day <= MOST_PER_DAY:
        found.append(Fault(("spread", "per_day"), f"it must be 1 to {MOST_PER_DAY}"))
    if not 0 <= spread.min_gap <= LONGEST_GAP_SECONDS:
        found.append(Fault(("spread", "min_gap"), f"it must be 0 to {LONGEST_GAP_SECONDS:.0f} s"))
    for index, each in enumerate(spread.window):
        if not _CLOCK.fullmatch(each) or (index == 0 and each == "24:00"):
            found.append(Fault(("spread", "window", index), f"{each!r} is no time of day; one is 09:00"))
    if found:
        return found
    first, last = (_minutes(each) for each in spread.window)
    if first == last:
        return [Fault(("spread", "window"), "it is empty; a whole day is 00:00 to 24:00")]
    gap = _whole_gap(spread)
    needed = (spread.per_day - 1) * gap
    room = min(((last - first) * 60) % _DAY_SECONDS or _DAY_SECONDS, _DAY_SECONDS - gap)
    if needed > room:
        message = f"{spread.per_day} fires with gaps of {gap} s need {needed} s; the window has room for {room} s"
        found.append(Fault(("spread", "min_gap" if spread.min_gap > 1 else "per_day"), message))
    return found


def _whole_gap(spread: Spread) -> int:
    """Seconds; at least one, because no two fires may have the same instant."""
    return max(1, math.ceil(spread.min_gap))


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
