"""A request to stop, by a signal, that a command waits for and answers in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Stopping:
    """Whether a signal (SIGINT, SIGTERM or SIGHUP) asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        #: Called at the second signal, when the person no longer waits for an orderly stop.
        self.on_second: Callable[[], None] = lambda: None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the request, at most so long; True if it has come."""
        return self._event.wait(seconds)

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def ask(self) -> None:
        again = self._event.is_set()
        self._event.set()
        if again:
            self.on_second()


@contextlib.contextmanager
def stop_signals() -> Iterator[Stopping]:
    """Inside the `with`, a signal to stop only sets `Stopping`, so that everything can be closed in order."""
    stopping = Stopping()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.ask()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
