"""The consumer of a lane that is divided into shards (experimental).

Each shard has a `TenantConsumer` and a thread of its own, because one blocking command can wait for one slot of a
cluster only. The threads put what they claim into one queue, from which Dramatiq's worker takes it.

Invariants: permits bound the number of messages in that queue; a shard whose node does not answer delays no other
shard; a message is settled by the consumer of its own shard.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import BrokerConnectionError

from .claims import Claims
from .consumer import TenantConsumer
from .message import LeasedMessage
from .worker_state import WorkerState

_RETRY_SECONDS = 0.5
_JOIN_SECONDS = 10.0


class ShardedConsumer(Consumer):
    """Yields `LeasedMessage`s of all shards of a lane; see the module.

    `consume_shard` makes the consumer of the shard with that number.
    """

    def __init__(
        self,
        worker: WorkerState,
        claims: Claims,
        consume_shard: Callable[[int], TenantConsumer],
        shards: int,
        timeout_ms: int,
    ) -> None:
        self.logger = logging.getLogger(__name__)
        self._worker = worker
        self._claims = claims
        self._consume_shard = consume_shard
        self._timeout_seconds = timeout_ms / 1000
        self._arrived: SimpleQueue[LeasedMessage] = SimpleQueue()
        self._stop = threading.Event()
        self._consumers = [consume_shard(number) for number in range(shards)]
        self._threads = [
            threading.Thread(target=self._run_shard, args=(number,), name=f"onelane-{each.state.key}", daemon=True)
            for number, each in enumerate(self._consumers)
        ]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> LeasedMessage | None:
        """The next message; None after the time-out."""
        if self._worker.stopping:
            self._give_back_arrived()
        try:
            message = self._arrived.get(timeout=self._timeout_seconds)
        except Empty:
            return None
        if self._worker.stopping:
            self._claims.give_back([message])
            return None
        return message

    def _run_shard(self, number: int) -> None:
        while not self._stop.is_set():
            consumer = self._consumers[number]
            try:
                message = next(consumer)
            except BrokerConnectionError as error:
                self.logger.warning("Shard %s does not serve, trying again: %s", consumer.state.key, error)
                self._reopen(number)
            except Exception:
                self.logger.critical("Shard %s failed, trying again.", consumer.state.key, exc_info=True)
                self._reopen(number)
            else:
                if message is not None:
                    self._arrived.put(message)

    def _reopen(self, number: int) -> None:
        self._stop.wait(_RETRY_SECONDS)
        old = self._consumers[number]
        try:
            old.close()
        except BrokerConnectionError as error:
            self.logger.debug("What shard %s had claimed is left to expire: %s", old.state.key, error)
        if not self._stop.is_set():
            self._consumers[number] = self._consume_shard(number)

    def ack(self, message: MessageProxy) -> None:
        self._consumer_of(message).ack(message)

    def nack(self, message: MessageProxy) -> None:
        self._consumer_of(message).nack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._consumers[0].requeue(messages)

    def _consumer_of(self, message: MessageProxy) -> TenantConsumer:
        return self._consumers[message.lane_state.shard if isinstance(message, LeasedMessage) else 0]

    def wake(self) -> None:
        """Ends the waits of all shards, from any thread."""
        for consumer in self._consumers:
            consumer.wake()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        """Ends the threads and gives back what was claimed and not yielded."""
        if self._stop.is_set():
            return
        self._stop.set()
        self.wake()
        for thread in self._threads:
            thread.join(timeout=_JOIN_SECONDS)
        failure: BrokerConnectionError | None = None
        for close in (*(each.close for each in self._consumers), self._give_back_arrived):
            try:
                close()
            except BrokerConnectionError as error:
                failure = error
        if failure is not None:
            raise failure

    def _give_back_arrived(self) -> None:
        arrived = []
        try:
            while True:
                arrived.append(self._arrived.get_nowait())
        except Empty:
            self._claims.give_back(arrived)
