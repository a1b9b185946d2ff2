"""Path templates, matched on the undecoded path.

A router that decodes first would take ``a%2Fjobs`` for the account ``a``, and ``a%3Apause`` for its verb ``pause``.
Here the path is split at literal slashes, and the verb at the first literal colon of the last segment; then each
segment is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote, unquote_to_bytes

T = TypeVar("T")

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class UndecodablePath(ValueError):
    """A segment is not percent-encoded UTF-8."""


@dataclass(frozen=True, slots=True)
class Template:
    """``/v1/accounts/{account}/jobs:batch`` in parts: literals, parameters, verb."""

    #: Each segment's literal text, or None for a parameter.
    literals: tuple[str | None, ...]
    names: tuple[str | None, ...]
    verb: str | None

    @classmethod
    def parse(cls, text: str) -> Template:
        segments = text.removeprefix("/").split("/")
        last, colon, verb = segments[-1].partition(":")
        segments[-1] = last
        names = tuple(each[1:-1] if each.startswith("{") else None for each in segments)
        literals = tuple(None if name else each for each, name in zip(segments, names, strict=True))
        return cls(literals, names, verb if colon else None)

    def fill(self, parameters: Mapping[str, str]) -> str:
        """The canonical path with these parameters."""
        parts = [
            quote(parameters[name], safe="") if name else literal or ""
            for literal, name in zip(self.literals, self.names, strict=True)
        ]
        return "/" + "/".join(parts) + ("" if self.verb is None else f":{self.verb}")

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name)


@dataclass(frozen=True, slots=True)
class SplitPath:
    """A request's path: decoded segments, and the verb if the last segment had a literal colon."""

    segments: tuple[str, ...]
    verb: str | None


def split_path(raw: bytes) -> SplitPath | None:
    """Split and decode; None if there is a colon where no verb can be.

    Raises:
        UndecodablePath: a segment is not percent-encoded UTF-8.
    """
    pieces = raw.removeprefix(b"/").split(b"/")
    last, colon, verb = pieces[-1].partition(b":")
    if any(b":" in piece for piece in pieces[:-1]):
        return None
    pieces[-1] = last
    return SplitPath(tuple(_decode(piece) for piece in pieces), _decode(verb) if colon else None)


def _decode(piece: bytes) -> str:
    if b"%" not in piece and piece.isascii():
        return piece.decode("ascii")
    if _BAD_ESCAPE.search(piece):
        raise UndecodablePath("path: a percent sign is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(piece).decode("utf-8")
    except UnicodeDecodeError:
        raise UndecodablePath("path: a segment is not UTF-8 once it is percent-decoded") from None


class PathTable(Generic[T]):
    """Finds the item of a path; literal segments take precedence over parameters."""

    def __init__(self, entries: Iterable[tuple[Template, T]]) -> None:
        self._by_shape: dict[tuple[int, str | None], list[tuple[Template, T]]] = {}
        for template, item in entries:
            self._by_shape.setdefault((len(template.literals), template.verb), []).append((template, item))
        for found in self._by_shape.values():
            found.sort(key=lambda each: sum(literal is None for literal in each[0].literals))

    def find(self, path: SplitPath) -> tuple[T, dict[str, str]] | None:
        for template, item in self._by_shape.get((len(path.segments), path.verb), ()):
            if all(
                literal is None or literal == segment
                for literal, segment in zip(template.literals, path.segments, strict=True)
            ):
                pairs = zip(template.names, path.segments, strict=True)
                return item, {name: segment for name, segment in pairs if name}
        return None
