"""Reads the JSON of a request strictly.

Invariants
- What `parse_json` accepts can be stored in SQLite and PostgreSQL alike and written out again unchanged.
- The common body costs one pass of the C parser; the tree is walked only when the bytes give a reason to.
- The cost is linear in the length of the body, and so is the memory. At most `MAX_FAULTS` faults are collected.
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

#: Arrays and objects in one another; deeper ones serve only to exhaust a parser.
MAX_DEPTH = 64
#: More faults than this tell a caller nothing more.
MAX_FAULTS = 100
#: Values and keys of a body, counted by what stands before each: commas, colons and opening brackets outside of
#: strings. The JSON scanner holds the GIL, and so stops the event loop, for about 0.1 s for as many.
MAX_VALUES = 1_000_000
#: Objects that are read, and values that are walked over, from one look at the CPU clock to the next.
_CLOCK_EVERY = 1024

#: An escape that stands for no character by itself: of U+0000, or of half a surrogate pair.
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
#: A string, also one that does not end: whatever comes, it matches from each quotation mark, so that `sub` is linear.
_STRING = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*"?')
_BEFORE_VALUES = (b",", b":", b"[", b"{")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_DEEPER = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


class MalformedJson(ValueError):
    """The text is not JSON; the message says where."""


class TooManyValues(ValueError):
    """The text has more values than anybody needs to send at once."""


class _Odd:
    """Stands in the parsed tree for a number that JSON does not have, so that the walk can say where it was."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Doubled(dict[str, Any]):
    """An object with a key that came twice."""

    keys_doubled: tuple[str, ...] = ()


class _Parse:
    """One parse; `suspicious` when the tree holds something that must be reported.

    Only as many faults are marked in the tree as are reported: each mark is an object that the garbage collector
    visits again and again while the rest is parsed.
    """

    def __init__(self, budget: CpuBudget | None) -> None:
        self.suspicious = False
        self._budget = budget
        self._objects = 0
        self._marks = 0
        self._another = _Odd("it")

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
        doubled = _Doubled(found)
        doubled.keys_doubled = tuple(islice(_doubled_names(pairs), MAX_FAULTS))
        return doubled

    def odd(self, text: str) -> _Odd:
        self.suspicious = True
        self._marks += 1
        return _Odd(text) if self._marks <= MAX_FAULTS else self._another

    def number(self, text: str) -> float | _Odd:
        value = float(text)
        return value if math.isfinite(value) else self.odd(text)

    def integer(self, text: str) -> int | _Odd:
        # Python refuses to read, and to write, integers of several thousand digits.
        return int(text) if len(text) <= 1000 else self.odd(text[:20] + "…")


def _doubled_names(pairs: list[tuple[str, Any]]) -> Iterator[str]:
    """Each name that comes more than once, when it comes for the second time."""
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
            parse_constant=parse.odd,
            parse_float=parse.number,
            parse_int=parse.integer,
        )
    except RecursionError:
        return None, [_too_deep(())]
    except json.JSONDecodeError as error:
        raise MalformedJson(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    if parse.suspicious or _ODD_ESCAPE.search(body) or _is_too_deep(body):
        return value, list(islice(_faults(value, budget), MAX_FAULTS))
    return value, []


def _has_too_many_values(body: bytes) -> bool:
    """Text has commas and colons too, so the strings are taken out before a body is refused."""
    if len(body) <= 2 * MAX_VALUES or sum(map(body.count, _BEFORE_VALUES)) <= MAX_VALUES:
        return False
    return sum(map(_STRING.sub(b"", body).count, _BEFORE_VALUES)) > MAX_VALUES


def _is_too_deep(body: bytes) -> bool:
    """Whether JSON is nested too deep, from its brackets alone, which takes an eighth of a walk through the tree."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0) > MAX_DEPTH


def _faults(root: Any, budget: CpuBudget | None) -> Iterator[Fault]:
    """Walk without recursion, so that no depth of the input can exhaust the stack, and no width the memory."""
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
    """What is wrong with a value by itself, and with the keys of an object."""
    if isinstance(value, _Odd):
        yield Fault(loc, f"{value.text} is not a number that is allowed here")
    elif isinstance(value, str):
        yield from _text_faults(loc, value)
    elif isinstance(value, dict | list) and len(loc) >= MAX_DEPTH:
        yield _too_deep(loc[:3])
    elif isinstance(value, dict):
        if isinstance(value, _Doubled):
            yield from (Fault((*loc, _shown(name)), "the key comes twice") for name in value.keys_doubled)
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
    """A key as it can be shown in the answer, which is valid UTF-8 itself."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\u0000")


def _too_deep(loc: tuple[str | int, ...]) -> Fault:
    return Fault(loc, f"arrays and objects are nested more than {MAX_DEPTH} deep")
