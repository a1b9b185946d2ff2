"""Sources of settings (environment, `.env`, a TOML file), and the messages about wrong ones.

It imports neither pydantic nor the settings themselves: a client command starts without them.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PREFIX = "ONELANE_"
DEFAULT_DATA_DIR, DEFAULT_HOST, DEFAULT_PORT = Path(".onelane"), "127.0.0.1", 8700
MINIMUM_KEY_CHARACTERS = 24
#: Variables with our prefix that are not settings.
NOT_SETTINGS = frozenset({"ONELANE_CONFIG"})


class SettingsError(Exception):
    """One or more settings are wrong; `faults` has a sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(["the settings are wrong:", *(f"  - {fault}" for fault in faults)]))
        self.faults = faults


def config_file() -> Path | None:
    """The TOML file in use: the one that `ONELANE_CONFIG` names, or `onelane.toml` if it exists."""
    named = os.environ.get("ONELANE_CONFIG")
    if named:
        return Path(named)
    usual = Path("onelane.toml")
    return usual if usual.is_file() else None


def config_file_faults() -> list[str]:
    """Why the TOML file cannot be read."""
    path = config_file()
    if path is None:
        return []
    try:
        with path.open("rb") as stream:
            tomllib.load(stream)
    except OSError as error:
        return [f"ONELANE_CONFIG: {path} cannot be read: {error.strerror}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [f"{path}: it is not valid TOML: {error}"]
    return []


def dotenv_faults() -> list[str]:
    """Why `.env` cannot be read."""
    path = Path(".env")
    if not path.exists():
        return []
    try:
        path.read_text(encoding="utf-8")
    except OSError as error:
        return [f"{path.absolute()} cannot be read: {error.strerror}"]
    except UnicodeDecodeError:
        return [f"{path.absolute()}: it is not UTF-8 text"]
    return []


def unknown_variables(environment: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """A sentence for each variable with our prefix that is no setting: a misspelt one would leave its default."""
    known = {PREFIX + name.upper() for name in settings} | NOT_SETTINGS
    return [
        f"{name}: there is no such setting{_guess(name, known)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known
    ]


def sentence(fault: Any, settings: Iterable[str]) -> str:
    """A fault that pydantic found, as a sentence that names the variable."""
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    rest = "".join(f"[{part}]" for part in fault["loc"][1:])
    if fault["type"] == "extra_forbidden":
        plain = name.lower().removeprefix(PREFIX.lower())
        return f"{name}: there is no such setting{_guess(plain, set(settings))}"
    shown = name if name.isupper() else PREFIX + name.upper()
    message = fault["msg"].removeprefix("Value error, ")
    return f"{shown}{rest}: {message[0].lower()}{message[1:]}"


def _guess(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
