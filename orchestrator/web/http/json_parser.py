"""A strict parser for the JSON of requests.

Invariants
- What `parse_json` accepts can be stored in SQLite and PostgreSQL and written again unchanged.
- A usual body costs one pass of the C parser; the tree is walked only if the bytes look suspicious.
- Time and memory are linear in the length of the body. At most `MAX_FAULTS` faults are collected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any

from tenants.errors import Fault

from .cpu_budget import CpuBudget

#: Most levels of arrays and objects; deeper ones serve only to exhaust a parser.
MAX_DEPTH = 64
#: Most faults that are reported.
MAX_FAULTS = 100
#: Most values and keys of a body, counted by the commas, colons and opening brackets outside of strings. The JSON
#: scanner holds the GIL, which stops the event loop, for about 0.1 s for this many.
MAX_VALUES = 1_000_000
#: Objects parsed, and values walked, between two checks of the CPU clock.
_CLOCK_EVERY = 1024

#: An escape that is no character by itself: of U+0000, or of half a surrogate pair.
_INVALID_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
#: A string, also an unterminated one: it matches from each quotation mark on, so that `sub` is linear.
_STRING = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*"?')
_BEFORE_VALUES = (b",", b":", b"[", b"{")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_DEEPER = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


class MalformedJson(ValueError):
    """The text is not JSON; the message says where."""


class TooManyValues(ValueError):
    """The text has more than `MAX_VALUES` values."""


class _InvalidNumber:
    """A placeholder in the parsed tree for a number that JSON does not have, so that the walk finds its place."""

    def __init__(self, text: str) -> None:
        self.text = text


class _DuplicateKeys(dict[str, Any]):
    """An object with duplicate keys."""

    duplicates: tuple[str, ...] = ()


class _Parse:
    """One parse; `suspicious` if the tree holds a fault.

    At most `MAX_FAULTS` faults are marked in the tree: each mark is an object that slows the garbage collector down
    while the rest is parsed.
    """

    def __init__(self, budget: CpuBudget | None) -> None:
        self.suspicious = False
        self._budget = budget
        self._objects = 0
        self._marks = 0
        self._unlisted = _InvalidNumber("it")

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._objects += 1
        if self._budget is not None and self._objects % _CLOCK_EVERY == 0:
            self._budget.check()
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.suspicious = True
        self._marks += 1
        if self._marks > MAX_FAULTS:
            return found
        marked = _DuplicateKeys(found)
        marked.duplicates = tuple(islice(_duplicate_names(pairs), MAX_FAULTS))
        return marked

    def invalid_number(self, text: str) -> _InvalidNumber:
        self.suspicious = True
        self._marks += 1
        return _InvalidNumber(text) if self._marks <= MAX_FAULTS else self._unlisted

    def number(self, text: str) -> float | _InvalidNumber:
        value = float(text)
        return value if math.isfinite(value) else self.invalid_number(text)

    def integer(self, text: str) -> int | _InvalidNumber:
        # Python refuses to read, and to write, integers of several thousand digits.
        return int(text) if len(text) <= 1000 else self.invalid_number(text[:20] + "…")


def _duplicate_names(pairs: list[tuple[str, Any]]) -> Iterator[str]:
    """Each name that occurs more than once, in the order of the second occurrences."""
    times: dict[str, int] = {}
    for name, _ in pairs:
        times[name] = times.get(name, 0) + 1
        if times[name] == 2:
            yield name


def parse_json(body: bytes, budget: CpuBudget | None = None) -> tuple[Any, list[Fault]]:
    """The value, and the first `MAX_FAULTS` faults in it; with faults, the value must not be used.

    Raises:
        MalformedJson: this is not JSON in UTF-8.
        TooManyValues: it has more than `MAX_VALUES`.
        CpuBudgetExceeded: it took more CPU than `budget` allows.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    if "\x00" in text:
        return None, [Fault((), "the body has the character U+0000, which is not allowed")]
    if _has_too_many_values(body):
        raise TooManyValues(f"the body has more than {MAX_VALUES} values and keys; send it in smaller parts")
    parse = _Parse(budget)
    try:
        value = json.loads(
            text,
            object_pairs_hook=parse.pairs,
            parse_constant=parse.invalid_number,
            parse_float=parse.number,
            parse_int=parse.integer,
        )
    except RecursionError:
        return None, [_too_deep(())]
    except json.JSONDecodeError as error:
        raise MalformedJson(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    if parse.suspicious or _INVALID_ESCAPE.search(body) or _is_too_deep(body):
        return value, list(islice(_faults(value, budget), MAX_FAULTS))
    return value, []


def _has_too_many_values(body: bytes) -> bool:
    """Strings may contain commas and colons, so they are removed before a body is refused."""
    if len(body) <= 2 * MAX_VALUES or sum(map(body.count, _BEFORE_VALUES)) <= MAX_VALUES:
        return False
    return sum(map(_STRING.sub(b"", body).count, _BEFORE_VALUES)) > MAX_VALUES


def _is_too_deep(body: bytes) -> bool:
    """Whether JSON is nested too deep, by its brackets alone: this takes an eighth of the time of a tree walk."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0) > MAX_DEPTH


def _faults(root: Any, budget: CpuBudget | None) -> Iterator[Fault]:
    """Walk the tree without recursion, so that no depth exhausts the stack and no width the memory."""
    yield from _own_faults((), root)
    open_values = [_children((), root)]
    walked = 0
    while open_values:
        child = next(open_values[-1], None)
        if child is None:
            open_values.pop()
            continue
        walked += 1
        if budget is not None and walked % _CLOCK_EVERY == 0:
            budget.check()
        loc, value = child
        yield from _own_faults(loc, value)
        if isinstance(value, dict | list) and len(loc) < MAX_DEPTH:
            open_values.append(_children(loc, value))


def _children(loc: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, list):
        return (((*loc, index), each) for index, each in enumerate(value))
    if isinstance(value, dict):
        return (((*loc, _shown(name)), each) for name, each in value.items())
    return iter(())


def _own_faults(loc: tuple[str | int, ...], value: Any) -> Iterator[Fault]:
    """The faults of a value itself, and of an object's keys."""
    if isinstance(value, _InvalidNumber):
        yield Fault(loc, f"{value.text} is not a number that is allowed here")
    elif isinstance(value, str):
        yield from _text_faults(loc, value)
    elif isinstance(value, dict | list) and len(loc) >= MAX_DEPTH:
        yield _too_deep(loc[:3])
    elif isinstance(value, dict):
        if isinstance(value, _DuplicateKeys):
            yield from (Fault((*loc, _shown(name)), "the key comes twice") for name in value.duplicates)
        for name in value:
            yield from _text_faults((*loc, name), name)


def _text_faults(loc: tuple[str | int, ...], text: str) -> Iterator[Fault]:
    if "\x00" in text:
        yield Fault(_shown_place(loc), "the character U+0000 is not allowed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            yield Fault(_shown_place(loc), "a lone surrogate is not a character")


def _shown_place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(_shown(part) if isinstance(part, str) else part for part in loc)


def _shown(name: str) -> str:
    """A key as valid UTF-8, for the answer."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\u0000")


def _too_deep(loc: tuple[str | int, ...]) -> Fault:
    return Fault(loc, f"arrays and objects are nested more than {MAX_DEPTH} deep")
