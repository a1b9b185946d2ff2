"""What this process knows about a lane (or about one shard of it), shared by its consumer and its settling threads.

Concurrent calls are answered in any order. The answer of the call that was sent last replaces what is known. The answer
of a call that was sent earlier may only add work or bring the next poll forward: it must not hide work that is due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Without a signal the lane is polled this often: that ends expired leases, and restores a bell lost with its taker.
IDLE_SECONDS = 1.0
#: The consumer is not woken for a smaller difference: the server's answers count whole ms.
SOONER_SECONDS = 0.005


class LaneState:
    """The state of one lane or shard in this process. Thread-safe."""

    def __init__(self, lane: str, shard: int, key: str, root: str) -> None:
        self.lane = lane
        self.shard = shard
        #: Its name in the thread budget, where shards of a lane take turns as lanes do.
        self.key = key
        #: The first part of all its Redis keys.
        self.root = root
        #: The last answer left messages that can start.
        self.has_work = True
        self.polled_at = 0.0
        #: Monotonic time of the next poll that the server's timers ask for.
        self.poll_at: float | None = None
        #: Ends the wait of the lane's consumer, from any thread.
        self.wake_consumer: Callable[[], None] = lambda: None
        #: When the call was sent, or the bell taken, from which this state comes.
        self._known_since = 0.0
        #: Until when the consumer waits for the bell.
        self._waits_until = 0.0
        #: When the bell was taken; None after a script has run since, because scripts signal the bell again if needed.
        self._bell_taken_at: float | None = None
        self._channels: list[int] = []
        self._channels_made = 0
        self._mutex = threading.Lock()

    def record_answer(self, ready: int, next_ms: int, sent_at: float) -> bool:
        """Records what a claim or settle answered that was sent at that monotonic time.

        Returns True if the consumer must be woken because it would wait longer than it should.
        """
        now = time.monotonic()
        poll_at = now + next_ms / 1000 if next_ms >= 0 else None
        with self._mutex:
            self.polled_at = now
            if self._bell_taken_at is not None and sent_at >= self._bell_taken_at:
                self._bell_taken_at = None
            if sent_at >= self._known_since:
                self._known_since, self.has_work, self.poll_at = sent_at, ready > 0, poll_at
            else:
                self.has_work = self.has_work or ready > 0
                if poll_at is not None and (self.poll_at is None or poll_at < self.poll_at):
                    self.poll_at = poll_at
            if poll_at is None or poll_at > self._waits_until - SOONER_SECONDS:
                return False
            self._waits_until = 0.0
            return True

    def record_bell(self) -> None:
        """The consumer took the bell: something can start, whatever earlier calls answered."""
        with self._mutex:
            self._known_since = self._bell_taken_at = time.monotonic()
            self.has_work = True

    def must_resignal(self) -> bool:
        """Whether the bell was taken and no script has run since. True once for each bell."""
        with self._mutex:
            taken, self._bell_taken_at = self._bell_taken_at is not None, None
            return taken

    def wait_seconds(self) -> float:
        """How long the consumer may wait for the bell. The consumer must wait that long, or until it is woken."""
        with self._mutex:
            self._waits_until = at = self._next_poll()
            return max(0.0, at - time.monotonic())

    def needs_poll(self) -> bool:
        """Whether messages can start, or the time of the next poll has come."""
        with self._mutex:
            return self.has_work or self._next_poll() <= time.monotonic()

    def _next_poll(self) -> float:
        at = self.polled_at + IDLE_SECONDS
        return at if self.poll_at is None else min(at, self.poll_at)

    def take_channel(self) -> int:
        """A number that no other unanswered claim or settle uses: the server keeps one answer for each channel."""
        with self._mutex:
            if self._channels:
                return self._channels.pop()
            self._channels_made += 1
            return self._channels_made - 1

    def return_channel(self, channel: int) -> None:
        """Makes the channel free: its request was answered, or is never sent again."""
        self._channels.append(channel)
