"""The command line. `main` is the entry point `onelane`.

Invariant: before it imports a package of onelane, it checks that no other module of the same name comes earlier on the
path.
"""

from __future__ import annotations

import sys

from onelane import collisions

from ..exit_codes import INTERRUPTED, WRONG_SETTINGS


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        collisions.exit_if_hidden(WRONG_SETTINGS)
        from .app import run

        sys.exit(run())
    except KeyboardInterrupt:  # during the imports
        sys.exit(INTERRUPTED)
