"""The broker's scripts: one Lua file per verb, with shared parts brought in by `-- @include name` lines.

Invariants: a part is included once, before what needs it; the key names come from `keys.py`; a script is known to the
server by the hash of its whole text, so two releases of onelane never run each other's scripts. On a cluster the
guarded form is run, which touches the lane's keys before anything else (see `keys.lua_root`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .keys import lua_root, with_key_names

_FIELDS = re.compile(r"^-- @fields (\w+): (.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- @include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    text: str
    sha: str

    @property
    def guarded(self) -> Script:
        """The form for a node of a cluster."""
        return script(self.name, guarded=True)


def _expand(text: str, seen: set[str], guarded: bool) -> str:
    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        if name == "keys":
            return lua_root(guarded)
        return _expand((files(__package__) / "scripts" / "include" / f"{name}.lua").read_text("utf-8"), seen, guarded)

    return _INCLUDE.sub(part, text)


def with_field_numbers(text: str) -> str:
    """Lua in which `name.field` is `name[number]` for the names that `-- @fields name: field …` lines tell of.

    A table with twenty named fields is a hash of 32 places, of 40 bytes each, to be made, filled and collected for each
    message twice; as a list it costs a twentieth of a settle less.

    Raises:
        KeyError: a field that no such line names.
    """
    numbers: dict[str, dict[str, int]] = {}
    for name, fields in _FIELDS.findall(text):
        known = numbers.setdefault(name, {})
        for field in fields.split():
            known[field] = len(known) + 1
    if not numbers:
        return text
    used = re.compile(rf"(?<![\w.])({'|'.join(numbers)})\.(\w+)")
    return used.sub(lambda match: f"{match[1]}[{numbers[match[1]][match[2]]}]", text)


@cache
def script(name: str, *, guarded: bool = False) -> Script:
    """The script of a verb, complete.

    Raises:
        FileNotFoundError: there is no such verb.
    """
    text = _expand((files(__package__) / "scripts" / f"{name}.lua").read_text("utf-8"), set(), guarded)
    text = with_field_numbers(with_key_names(text))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def verbs() -> list[str]:
    """The names of all scripts, sorted."""
    found = (files(__package__) / "scripts").iterdir()
    return sorted(item.name.removesuffix(".lua") for item in found if item.name.endswith(".lua"))
