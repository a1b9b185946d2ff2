"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed distribution's version."""
    try:
        return version("onelane")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
