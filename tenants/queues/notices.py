"""Log lines about what repeats itself: the first at once, then one a minute with the number of those between.

A server that is full refuses every call of every thread. Hundreds of equal lines a minute hide all others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .errors import ServerRefuses

QUIET_SECONDS = 60.0


class Notices:
    """What was said when, by key. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}

    def due(self, key: str) -> int | None:
        """How often it came since the last line, this one left out; None: no line is due."""
        with self._mutex:
            now = self._clock()
            said_at, unsaid = self._said.get(key, (now - QUIET_SECONDS, 0))
            if now - said_at < QUIET_SECONDS:
                self._said[key] = (said_at, unsaid + 1)
                return None
            self._said[key] = (now, 0)
            return unsaid


#: One for the process, because all of its threads meet the same server.
_refusals = Notices()


def warn(logger: logging.Logger, error: Exception, message: str, *arguments: object) -> None:
    """Log the message as a warning; of a refusing server one line a minute, whoever in this process met it."""
    if not isinstance(error, ServerRefuses):
        logger.warning(message, *arguments)
        return
    unsaid = _refusals.due(error.reason)
    if unsaid is None:
        logger.debug(message, *arguments)
        return
    more = f" ({unsaid} more refusals since the last such line)" if unsaid else ""
    logger.warning("%s%s: %s", error, more, message % arguments if arguments else message)
