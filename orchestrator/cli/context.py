"""What commands share: their common options, the settings they load, and the client they speak through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import Onelane
from ..data_folder import DataFolder
from ..ports import reachable_host
from ..settings import Settings

DataDir = Annotated[Path | None, typer.Option(help="Where files live (ONELANE_DATA_DIR).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]
Url = Annotated[str | None, typer.Option(help="The service's address (ONELANE_URL); found in the data directory.")]
Key = Annotated[str | None, typer.Option(help="The API key (ONELANE_API_KEY); found in the data directory.")]
Account = Annotated[str | None, typer.Option(help="Only of this account.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many rows.")]


class NoKey(Exception):
    """No API key is at hand."""


def load(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """The settings, with a command's own options over them."""
    return Settings.load(data_dir=data_dir, **overrides)


def connect(data_dir: Path | None, url: str | None, key: str | None) -> Onelane:
    """A client of the service that the options, the settings or the data directory name.

    Raises:
        NoKey: none was given, set, or made by an `up` in the data directory.
    """
    settings = load(data_dir, url=url, api_key=key)
    folder = DataFolder(settings.data_dir)
    port = settings.port if "port" in settings.model_fields_set else folder.ports().get("api", settings.port)
    address = settings.url or f"http://{reachable_host(settings.host)}:{port}"
    secret = settings.api_key or settings.admin_key
    # Several admin keys may be set, separated by commas, so that one can be changed without a gap.
    found = secret.get_secret_value().split(",")[0].strip() if secret else folder.kept_key("admin")
    if not found:
        raise NoKey(
            f"no API key: give --key or ONELANE_API_KEY, or name the data directory of a running `onelane up` "
            f"(--data-dir; none was made in {folder.path})"
        )
    return Onelane(address, found)
