"""The command line. `main` is the entry point `onelane`.

Exit codes: 0 done; 1 the service refused or the work failed; 2 wrong usage; 3 no service answers; 4 the settings are
wrong; 130 interrupted; 141 whoever read the output has gone. Commands that wait for a job's end say how it ended: 0
completed; 10 failed; 11 timed out; 12 cancelled; 13 expired; 14 it had not ended when the time was over.

Invariant: before any package of ours is imported, it is made sure that it is ours, and not a stranger's module of the
same name that stands earlier on the path.
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
    except KeyboardInterrupt:  # while everything is still being read
        sys.exit(INTERRUPTED)
