"""Positions in the events, from which a reader can continue without loss or repetition.

Events are numbered when they are written, and visible when they are committed. On PostgreSQL a lower number can be
committed after a higher one, so a position also has the lower numbers that were missing. A missing number belongs to a
transaction in flight, or to one that was rolled back.

The text of a position is what clients send in `Last-Event-ID`: `1042`, or `1042~4,1-2` where 1038 and 1040 to 1041
were missing. Clients treat it as opaque.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

#: The most ranges in a position; beyond that the lowest are merged, and some events may be sent twice.
MAX_RANGES = 50

_TEXT = re.compile(r"(\d{1,18})(?:~(\d{1,18}(?:-\d{1,18})?(?:,\d{1,18}(?:-\d{1,18})?){0,199}))?", re.ASCII)


class Range(NamedTuple):
    """The numbers from `low` to `high`, both included."""

    low: int
    high: int


#: Ascending, disjoint and not adjacent.
Ranges = tuple[Range, ...]


def ranges_between(low: int, high: int, present: Iterable[int]) -> Ranges:
    """The numbers from `low` to `high` that are not `present`, which ascends and lies within them."""
    found, begin = [], low
    for number in present:
        if number > begin:
            found.append(Range(begin, number - 1))
        begin = number + 1
    if begin <= high:
        found.append(Range(begin, high))
    return tuple(found)


def without(ranges: Ranges, numbers: Iterable[int]) -> Ranges:
    """The ranges without these numbers."""
    left = list(numbers)
    found: list[Range] = []
    for each in ranges:
        inside = sorted(number for number in left if each.low <= number <= each.high)
        found.extend(ranges_between(each.low, each.high, inside))
    return tuple(found)


def below(ranges: Ranges, number: int) -> Ranges:
    """The part of the ranges that is lower than `number`."""
    return tuple(Range(each.low, min(each.high, number - 1)) for each in ranges if each.low < number)


def contains(ranges: Ranges, number: int) -> bool:
    return any(each.low <= number <= each.high for each in ranges)


def at_most(ranges: Ranges, count: int) -> Ranges:
    """No more than `count` ranges that hold all the numbers: the lowest ones are merged."""
    if len(ranges) <= count:
        return ranges
    merged = ranges[: len(ranges) - count + 1]
    return (Range(merged[0].low, merged[-1].high), *ranges[len(merged) :])


@dataclass(frozen=True, slots=True)
class Position:
    """Every event up to `last` was read, except those with `missing` numbers."""

    last: int = 0
    missing: Ranges = ()

    def __str__(self) -> str:
        if not self.missing:
            return str(self.last)
        parts = []
        for low, high in reversed(at_most(self.missing, MAX_RANGES)):
            first, last = self.last - high, self.last - low
            parts.append(str(first) if first == last else f"{first}-{last}")
        return f"{self.last}~{','.join(parts)}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position; None for any other text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        last, found = int(match[1]), list[Range]()
        for part in (match[2] or "").split(",") if match[2] else ():
            first, _, end = part.partition("-")
            found.append(Range(last - int(end or first), last - int(first)))
        found.reverse()
        ascending = all(one.high < other.low for one, other in pairwise(found))
        if not ascending or any(each.low > each.high or each.low < 0 or each.high >= last for each in found):
            return None
        return cls(last, tuple(found))

    def missing_up_to(self, number: int) -> Ranges:
        """The numbers below `number` that were not read at this position."""
        lower = below(self.missing, number)
        return (*lower, Range(self.last + 1, number - 1)) if number - 1 > self.last else lower
