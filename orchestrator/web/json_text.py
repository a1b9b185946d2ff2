"""JSON as it goes over the wire: strict when read, compact when written.

Invariants
- What `parse_json` accepts can be stored in SQLite and PostgreSQL alike and written out again unchanged.
- The common body costs one pass of the C parser; the tree is walked only when the bytes give a reason to.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from tenants.errors import Fault

#: Arrays and objects in one another; deeper ones serve only to exhaust a parser.
MAX_DEPTH = 64

#: An escape that stands for no character by itself: of U+0000, or of half a surrogate pair.
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_DEEPER = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


class MalformedJson(ValueError):
    """The text is not JSON; the message says where."""


class _Odd:
    """Stands in the parsed tree for a number that JSON does not have, so that the walk can say where it was."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Doubled(dict[str, Any]):
    """An object with a key that came twice."""

    keys_doubled: tuple[str, ...] = ()


class _Parse:
    """One parse; `suspicious` when the tree holds something that must be reported."""

    def __init__(self) -> None:
        self.suspicious = False

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.suspicious = True
        doubled = _Doubled(found)
        names = [name for name, _ in pairs]
        doubled.keys_doubled = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
        return doubled

    def odd(self, text: str) -> _Odd:
        self.suspicious = True
        return _Odd(text)

    def number(self, text: str) -> float | _Odd:
        value = float(text)
        return value if math.isfinite(value) else self.odd(text)

    def integer(self, text: str) -> int | _Odd:
        # Python refuses to read, and to write, integers of several thousand digits.
        return int(text) if len(text) <= 1000 else self.odd(text[:20] + "…")


def parse_json(body: bytes) -> tuple[Any, list[Fault]]:
    """The value, and every fault in it; with faults, the value must not be used.

    Raises:
        MalformedJson: this is not JSON in UTF-8.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    if "\x00" in text:
        return None, [Fault((), "the body has the character U+0000, which is not allowed")]
    parse = _Parse()
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
        return value, list(_faults(value))
    return value, []


def _is_too_deep(body: bytes) -> bool:
    """Whether JSON is nested too deep, from its brackets alone, which takes an eighth of a walk through the tree."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0) > MAX_DEPTH


def _faults(root: Any) -> Iterator[Fault]:
    """Walk without recursion, so that no depth of the input can exhaust the stack."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), root)]
    while waiting:
        loc, value = waiting.pop()
        if isinstance(value, _Odd):
            yield Fault(loc, f"{value.text} is not a number that is allowed here")
        elif isinstance(value, str):
            yield from _text_faults(loc, value)
        elif isinstance(value, dict | list):
            if len(loc) >= MAX_DEPTH:
                yield _too_deep(loc[:3])
                continue
            if isinstance(value, list):
                waiting.extend(((*loc, index), each) for index, each in reversed(list(enumerate(value))))
                continue
            if isinstance(value, _Doubled):
                yield from (Fault((*loc, _shown(name)), "the key comes twice") for name in value.keys_doubled)
            for name in value:
                yield from _text_faults((*loc, _shown(name)), name)
            waiting.extend(((*loc, _shown(name)), each) for name, each in reversed(value.items()))


def _text_faults(loc: tuple[str | int, ...], text: str) -> Iterator[Fault]:
    if "\x00" in text:
        yield Fault(loc, "the character U+0000 is not allowed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            yield Fault(loc, "a lone surrogate is not a character")


def _shown(name: str) -> str:
    """A key as it can be shown in the answer, which is valid UTF-8 itself."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\u0000")


def _too_deep(loc: tuple[str | int, ...]) -> Fault:
    return Fault(loc, f"arrays and objects are nested more than {MAX_DEPTH} deep")


def to_json(value: Any) -> bytes:
    """Compact UTF-8; datetimes as RFC 3339 in UTC."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_other).encode()


def time_text(value: datetime) -> str:
    """RFC 3339 in UTC, e.g. ``2026-11-21T11:30:00.250000Z``."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _other(value: Any) -> Any:
    if isinstance(value, datetime):
        return time_text(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
