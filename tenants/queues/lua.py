"""The broker's scripts: one Lua file a verb, with shared parts inserted at `-- @include name` lines.

Invariants: each part is inserted once, before what needs it; key names come from `keys.py`; the server knows a script
by the hash of its whole text, so two releases of onelane never run each other's scripts. On a cluster the guarded form
runs, which touches the lane's keys before anything else (see `keys.lua_root`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .keys import lua_root, with_key_names

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


@cache
def script(name: str, *, guarded: bool = False) -> Script:
    """The script of a verb, complete.

    Raises:
        FileNotFoundError: there is no such verb.
    """
    text = _expand((files(__package__) / "scripts" / f"{name}.lua").read_text("utf-8"), set(), guarded)
    text = with_key_names(text)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def verbs() -> list[str]:
    """The names of all scripts, sorted."""
    found = (files(__package__) / "scripts").iterdir()
    return sorted(item.name.removesuffix(".lua") for item in found if item.name.endswith(".lua"))
