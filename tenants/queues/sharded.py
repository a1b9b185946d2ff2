"""The consumer of a lane that is cut into shards (experimental): one waiting thread a shard, one voice to the worker.

Each shard has a `TenantConsumer` of its own, with its own bell, because a blocking command can wait on one slot only.
What they claim comes together here in the order of its arrival.

Invariants: permits bound what has arrived and not been taken by the worker; a shard whose node does not serve holds up
no other; a message is settled by the shard that claimed it.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import BrokerConnectionError

from .consumer import LaneShard, TenantConsumer
from .message import LeasedMessage

if TYPE_CHECKING:
    from .broker import TenantBroker

_RETRY_SECONDS = 0.5
_JOIN_SECONDS = 10.0


class ShardedConsumer(Consumer):
    """Yields `LeasedMessage`s of all shards of a lane; see the module."""

    def __init__(self, broker: TenantBroker, shards: Sequence[LaneShard], prefetch: int, timeout_ms: int) -> None:
        self.logger = logging.getLogger(__name__)
        self._broker = broker
        self._prefetch = prefetch
        self._timeout_ms = timeout_ms
        self._arrived: SimpleQueue[LeasedMessage] = SimpleQueue()
        self._stop = threading.Event()
        self._parts = [TenantConsumer(broker, shard, prefetch, timeout_ms) for shard in shards]
        self._threads = [
            threading.Thread(target=self._wait_on, args=(number,), name=f"onelane-{part.shard.key}", daemon=True)
            for number, part in enumerate(self._parts)
        ]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> LeasedMessage | None:
        """The next message; None once the time-out is over."""
        if self._broker.stopping:
            self._give_back_arrived()
        try:
            message = self._arrived.get(timeout=self._timeout_ms / 1000)
        except Empty:
            return None
        if self._broker.stopping:
            message.consumer.give_back([message])
            return None
        return message

    def _wait_on(self, number: int) -> None:
        while not self._stop.is_set():
            part = self._parts[number]
            try:
                message = next(part)
            except BrokerConnectionError as error:
                self.logger.warning("Shard %s does not serve, trying again: %s", part.shard.key, error)
                self._reopen(number)
            except Exception:
                self.logger.critical("Shard %s failed, trying again.", part.shard.key, exc_info=True)
                self._reopen(number)
            else:
                if message is not None:
                    self._arrived.put(message)

    def _reopen(self, number: int) -> None:
        self._stop.wait(_RETRY_SECONDS)
        old = self._parts[number]
        try:
            old.close()
        except BrokerConnectionError as error:
            self.logger.debug("What shard %s had claimed is left to expire: %s", old.shard.key, error)
        if not self._stop.is_set():
            self._parts[number] = TenantConsumer(self._broker, old.shard, self._prefetch, self._timeout_ms)

    def ack(self, message: MessageProxy) -> None:
        self._of(message).ack(message)

    def nack(self, message: MessageProxy) -> None:
        self._of(message).nack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        by_part: dict[TenantConsumer, list[MessageProxy]] = defaultdict(list)
        for message in messages:
            by_part[self._of(message)].append(message)
        for part, members in by_part.items():
            part.requeue(members)

    def _of(self, message: MessageProxy) -> TenantConsumer:
        return message.consumer if isinstance(message, LeasedMessage) else self._parts[0]

    def wake(self) -> None:
        """Ends the waits that are on, from any thread."""
        for part in self._parts:
            part.wake()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        """Ends the threads and gives back what has arrived and was not yielded."""
        if self._stop.is_set():
            return
        self._stop.set()
        self.wake()
        for thread in self._threads:
            thread.join(timeout=_JOIN_SECONDS)
        failure: BrokerConnectionError | None = None
        for close in (*(part.close for part in self._parts), self._give_back_arrived):
            try:
                close()
            except BrokerConnectionError as error:
                failure = error
        if failure is not None:
            raise failure

    def _give_back_arrived(self) -> None:
        while True:
            try:
                message = self._arrived.get_nowait()
            except Empty:
                return
            message.consumer.give_back([message])
