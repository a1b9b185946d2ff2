"""Log lines that repeat: the first is written at once, then one a minute with the number of those left out.

A full server refuses every call of every thread. Hundreds of equal lines a minute would hide all others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .errors import ServerRefuses

QUIET_SECONDS = 60.0


class Notices:
    """When a line was last written, by key. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        #: Key → time of the last line, and how many were left out since.
        self._written: dict[str, tuple[float, int]] = {}

    def due(self, key: str) -> int | None:
        """How many lines were left out since the last one; None: no line is due."""
        with self._mutex:
            now = self._clock()
            written_at, left_out = self._written.get(key, (now - QUIET_SECONDS, 0))
            if now - written_at < QUIET_SECONDS:
                self._written[key] = (written_at, left_out + 1)
                return None
            self._written[key] = (now, 0)
            return left_out


#: One for the process, because all its threads call the same server.
refusals = Notices()


def warn(logger: logging.Logger, error: Exception, message: str, *arguments: object) -> None:
    """Logs the message as a warning; if the server refuses, only one line a minute for each reason in this process."""
    if not isinstance(error, ServerRefuses):
        logger.warning(message, *arguments)
        return
    left_out = refusals.due(error.reason)
    if left_out is None:
        logger.debug(message, *arguments)
        return
    more = f" ({left_out} more refusals since the last such line)" if left_out else ""
    logger.warning("%s%s: %s", error, more, message % arguments if arguments else message)
