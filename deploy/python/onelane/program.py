"""The program `onelane`: checks that no other package hides ours before it imports them."""

from __future__ import annotations

import sys

from . import collisions

_WRONG_SETTINGS, _INTERRUPTED = 4, 130


def main() -> None:
    """Run the command line and end the process with its exit code."""
    collisions.exit_if_hidden(_WRONG_SETTINGS)
    try:
        from orchestrator.cli import main as run
    except KeyboardInterrupt:  # while it is still being imported
        sys.exit(_INTERRUPTED)
    run()
