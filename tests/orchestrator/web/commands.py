"""Commands that speak to a real server, as the fixture `command` runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

#: Runs a command and gives back what it printed on standard output.
Command = Callable[..., str]


def made(command: Command, *more: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(
        command("jobs", "create", "a/b", "sample", "--input", '{"topic": "lanes"}', "--json", *more)
    )
    return job
