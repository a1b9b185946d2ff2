"""Reads and checks the options of an account's target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import PublishRefused


def text_option(options: Mapping[str, Any], name: str, default: str = "") -> str:
    """An option that must be text.

    Raises:
        PublishRefused: it is not.
    """
    value = options.get(name, default)
    if not isinstance(value, str):
        raise PublishRefused(f"the target's option {name!r} must be text, not {value!r}")
    return value


def list_option(options: Mapping[str, Any], name: str) -> list[str]:
    """An option that must be a list of texts; a single text counts as a list of one.

    Raises:
        PublishRefused: it is not.
    """
    value = options.get(name, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise PublishRefused(f"the target's option {name!r} must be a list of texts, not {value!r}")
    return values
