"""Waiting at the start of a process until database and Redis answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from dramatiq.errors import BrokerConnectionError

from tenants.errors import Unavailable

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0

T = TypeVar("T")


class StoppedWaiting(Exception):
    """The process was stopped while it waited for a server."""


def when_available(call: Callable[[], T], stopping: threading.Event | None = None) -> T:
    """Make the call, and retry it with backoff while the database or Redis is unreachable; logs each new reason once.

    `call` must be safe to repeat.

    Raises:
        StoppedWaiting: `stopping` was set.
    """
    stopping = threading.Event() if stopping is None else stopping
    pause, reason = FIRST_PAUSE_SECONDS, ""
    while True:
        try:
            answer = call()
        except (Unavailable, BrokerConnectionError) as error:
            if str(error) != reason:
                reason = str(error)
                logger.warning("not started yet, trying again until it answers: %s", reason)
        else:
            if reason:
                logger.info("it answers now")
            return answer
        if stopping.wait(pause):
            raise StoppedWaiting(reason)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
