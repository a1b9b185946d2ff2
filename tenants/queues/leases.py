"""The lease renewer: extends the leases of this process, and calls a hook at once when one is lost.

It has its own thread, because the threads that run messages can be blocked for long. Each extension names the leases
that this process knows. The server gives back leases of this worker that are not named: their claim's answer was lost.

Invariants: a lease is extended until its settle was answered; requests that may still be answered are named too, so
that the server does not give back what they claimed; a lease that was not confirmed for its whole length counts as lost
here, because another worker may have it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import raise_thread_exception

from .errors import LeaseLost, ScriptFailed
from .lua import script
from .message import LeasedMessage
from .notices import warn
from .server import Server

_EXTEND = script("extend")
_RETRY_SECONDS = 1.0


def lease_holder(worker_id: str) -> str:
    """A broker's `worker_id` as its leases have it, up to the last dot."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", worker_id)[:100]


def interrupt(message: LeasedMessage) -> None:
    """Raises `LeaseLost` in the thread that runs the message, as Dramatiq does at a time limit.

    Not once the message is being settled: its thread may then be sending other messages' settles.
    """
    with message.ending:
        if message.thread_id is not None and not message.settling:
            raise_thread_exception(message.thread_id, LeaseLost)  # type: ignore[no-untyped-call]


class LeaseRenewer:
    """The leases and open requests of one process."""

    def __init__(
        self,
        server: Server,
        worker: str,
        lease_seconds: float,
        extend_seconds: float,
        on_lost: Callable[[LeasedMessage], None],
    ) -> None:
        self.logger = logging.getLogger(__name__)
        self.worker = worker
        self.lease_ms = round(lease_seconds * 1000)
        self._server = server
        self._lease_seconds = lease_seconds
        self._extend_seconds = extend_seconds
        self._on_lost = on_lost
        self._mutex = threading.Lock()
        self._issued = 0
        self._in_flight: set[int] = set()
        self._held: dict[int, LeasedMessage] = {}
        self._roots: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> list[LeasedMessage]:
        """The messages leased now."""
        with self._mutex:
            return list(self._held.values())

    def open_request(self, number: int | None = None) -> int:
        """A new request number, or `number` opened again. What it claims is not given back until it is closed."""
        with self._mutex:
            if number is None:
                self._issued += 1
                number = self._issued
            self._in_flight.add(number)
        return number

    def close_request(self, number: int) -> None:
        with self._mutex:
            self._in_flight.discard(number)

    def add_all(self, messages: Iterable[LeasedMessage]) -> None:
        with self._mutex:
            for message in messages:
                self._held[id(message)] = message
                self._roots.add(message.lane_state.root)
        if self._thread is None:
            self.start()

    def remove_all(self, messages: Iterable[LeasedMessage]) -> None:
        with self._mutex:
            for message in messages:
                self._held.pop(id(message), None)

    def start(self) -> None:
        """Starts the thread if it does not run."""
        with self._mutex:
            if self._thread is not None:
                return
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="onelane-leases", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Leases that are still held will expire."""
        self._stop.set()
        with self._mutex:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=self._extend_seconds + 10)

    def _run(self) -> None:
        pause = self._extend_seconds
        while not self._stop.wait(pause):
            try:
                self.extend_all()
                pause = self._extend_seconds
            except BrokerConnectionError as error:
                warn(self.logger, error, "Leases could not be extended, trying again: %s", error)
                pause = min(_RETRY_SECONDS, self._extend_seconds)
            except ScriptFailed:
                self.logger.critical("Leases could not be extended.", exc_info=True)
                pause = self._extend_seconds
            self._expire_unconfirmed()

    def extend_all(self) -> None:
        """Extends all leases once.

        Raises:
            dramatiq.errors.ConnectionClosed: the server cannot be reached.
        """
        with self._mutex:
            issued, in_flight = self._issued, sorted(self._in_flight)
            by_root: dict[str, list[LeasedMessage]] = defaultdict(list)
            for message in self._held.values():
                by_root[message.lane_state.root].append(message)
            roots = list(self._roots)
        failure: BrokerConnectionError | None = None
        failed: set[Server] = set()
        for root in roots:
            try:
                node = self._server.at(root)
                if node in failed:
                    continue  # a second time-out on the same node could let the leases on other nodes expire
                failed.add(node)
                self._extend(root, by_root.get(root, []), issued, in_flight)
                failed.discard(node)
            except BrokerConnectionError as error:
                failure = error
        if failure is not None:
            raise failure

    def _extend(self, root: str, messages: list[LeasedMessage], issued: int, in_flight: list[int]) -> None:
        asked_at = time.monotonic()
        named = [part for each in messages for part in (each.token, each.slot, each.epoch)]
        lost, given_back = self._server.run(
            _EXTEND, root, self.worker, self.lease_ms, issued, len(in_flight), *in_flight, *named
        )
        if given_back:
            self.logger.warning("Gave back %d messages whose claim was never answered (%s).", given_back, root)
        for position, message in enumerate(messages):
            if position not in lost:
                message.confirmed_at = asked_at
            elif self._is_held(message):
                self._lose(message, "the server gave it to another worker")

    def _is_held(self, message: LeasedMessage) -> bool:
        # A message that was settled after its lease was listed here looks lost to the server.
        with self._mutex:
            return id(message) in self._held and not message.settling

    def _expire_unconfirmed(self) -> None:
        oldest = time.monotonic() - self._lease_seconds
        for message in self.held:
            if message.confirmed_at < oldest and not message.settling:
                self._lose(message, "it could not be extended in time")

    def _lose(self, message: LeasedMessage, reason: str) -> None:
        if message.is_lost:
            return
        message.lease_lost.set()
        self.remove_all([message])
        self.logger.warning(
            "Lost the lease of entry %r of account %r on lane %r (epoch %d): %s.",
            message.entry_id,
            message.account,
            message.lane,
            message.epoch,
            reason,
        )
        try:
            self._on_lost(message)
        except Exception:
            self.logger.critical("The hook for lost leases failed.", exc_info=True)
