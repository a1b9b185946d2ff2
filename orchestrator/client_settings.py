"""The settings of a client command: the service's address and the key.

A client command needs six of the settings, and checking all takes longer than the command itself. So usual values of
these six are read from the environment directly. Anything else (a settings file, another setting, an unusual value) is
left to `Settings`, which checks all of them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .settings_sources import DEFAULT_DATA_DIR, DEFAULT_HOST, MINIMUM_KEY_CHARACTERS, PREFIX, config_file

_KEY = r"[!-~]+"
_PLAIN = {
    "data_dir": re.compile(r"[^~\0]+"),
    "url": re.compile(r"https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[1-9]\d{0,3}|:[1-5]\d{4})?"),
    "api_key": re.compile(_KEY),
    "admin_key": re.compile(rf"[!-+\--~]{{{MINIMUM_KEY_CHARACTERS},}}"),
    "host": re.compile(r"[A-Za-z0-9.:-]+"),
    "port": re.compile(r"[1-9]\d{0,3}|[1-5]\d{4}"),
}


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The settings of a client command; `port` is None if it is not set."""

    data_dir: Path
    url: str | None
    #: The account's or admin key; several admin keys are separated by commas.
    key: str | None
    host: str
    port: int | None


def load_client_settings(
    *, data_dir: Path | None = None, url: str | None = None, api_key: str | None = None
) -> ClientSettings:
    """The settings, with a command's own options over them.

    Raises:
        SettingsError: with a sentence for each fault, and a guess for each unknown name.
    """
    given = {"data_dir": None if data_dir is None else str(data_dir), "url": url, "api_key": api_key}
    plain = _plain_values({name: value for name, value in given.items() if value is not None})
    if plain is None:
        return _checked(data_dir=data_dir, url=url, api_key=api_key)
    return ClientSettings(
        data_dir=Path(plain.get("data_dir", DEFAULT_DATA_DIR)).absolute(),
        url=plain.get("url"),
        key=plain.get("api_key") or plain.get("admin_key"),
        host=plain.get("host", DEFAULT_HOST),
        port=int(plain["port"]) if "port" in plain else None,
    )


def _plain_values(given: dict[str, str]) -> dict[str, str] | None:
    """The values by setting; None if one of them, or a file, has to be checked."""
    if config_file() is not None or Path(".env").is_file():
        return None
    found = {}
    for variable, value in os.environ.items():
        if variable.upper().startswith(PREFIX) and value:
            found[variable.removeprefix(PREFIX).lower()] = value
    found |= given
    plain = all(name in _PLAIN and _PLAIN[name].fullmatch(value) for name, value in found.items())
    return found if plain else None


def _checked(*, data_dir: Path | None, url: str | None, api_key: str | None) -> ClientSettings:
    from .settings import Settings

    settings = Settings.load(check_alert_urls=False, data_dir=data_dir, url=url, api_key=api_key)
    secret = settings.api_key or settings.admin_key
    return ClientSettings(
        data_dir=settings.data_dir,
        url=settings.url,
        key=secret.get_secret_value() if secret else None,
        host=settings.host,
        port=settings.port if "port" in settings.model_fields_set else None,
    )
