"""From SQL to Redis: queued steps become messages. SQL has been committed before; Redis is an index that may lag.

Nothing is lost when Redis is away: a step that is queued and not marked as dispatched for a second is sent again each
second by the dispatcher loop. Sending twice is harmless, because a message carries the step's id and is enqueued once
by it. A step that was sent is marked later, and only if it waits still: most have started by then, and a mark a step
would be one more commit a step.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import dramatiq
from dramatiq.errors import BrokerConnectionError

from tenants.database.batching import BatchExecutor, BatchFailed
from tenants.queues import Entry, QueueError, TenantBroker
from tenants.queues.errors import REFUSALS
from tenants.queues.notices import warn
from tenants.store.dispatch import Dispatch

log = logging.getLogger(__name__)

#: A step that is due later than this stays in SQL; the dispatcher loop sends it when its time is near.
HORIZON_SECONDS = 60.0
#: After a failure nothing is sent at once for so long, in a process without the loop; in one with it, until the loop
#: has found that Redis answers.
AWAY_SECONDS = 2.0
#: Sent steps that are remembered until they are marked; those beyond are sent once more, which does no harm.
_MOST_UNMARKED = 100_000


def entry_of(step: Dispatch, now: datetime) -> Entry:
    """The broker's entry of a queued step; its id is the step's."""
    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name=step.lane,
        actor_name=f"{step.pipeline}.{step.name}",
        args=(step.id,),
        kwargs={},
        options={"account": step.account},
        message_id=step.id,  # unique as it is: a fresh one would be a call of the system's for random bytes
    )
    delay = max(0.0, (step.due_at - now).total_seconds()) if step.due_at is not None else 0.0
    return Entry(message=message, id=step.id, priority=step.priority, sequence=step.sequence, delay_seconds=delay)


class Dispatcher:
    """Hands queued steps to Redis, at once where it can."""

    def __init__(self, broker: TenantBroker) -> None:
        self._broker = broker
        self._away_until = 0.0
        #: The lane on which Redis failed.
        self._away_lane = ""
        self._unmarked: deque[tuple[float, str]] | None = None
        #: Single steps that several threads send at one moment go in one round trip.
        self._batches: BatchExecutor[Entry, bool] = BatchExecutor(self._send_batch)

    def remember_sent(self) -> None:
        """From now on keep the ids of what is sent for `take_sent`, and rely on `ask_again`: for the loop's process."""
        if self._unmarked is None:
            self._unmarked = deque(maxlen=_MOST_UNMARKED)

    def take_sent(self, most: int, *, older_than: float) -> list[str]:
        """The ids of at most so many steps that Redis took so many seconds ago or earlier; each is given back once."""
        taken: list[str] = []
        until = time.monotonic() - older_than
        while self._unmarked and len(taken) < most and self._unmarked[0][0] <= until:
            taken.append(self._unmarked.popleft()[1])
        return taken

    def send(self, steps: Iterable[Dispatch]) -> bool:
        """Send steps that are due within the horizon; False when Redis did not take them (the loop sends again)."""
        now = datetime.now(UTC)
        near = [
            entry_of(step, now)
            for step in steps
            if step.due_at is None or (step.due_at - now).total_seconds() <= HORIZON_SECONDS
        ]
        if not near:
            return True
        if len(near) > 1:
            return self._send_now(near)  # a large batch must not hold up the single steps of others
        try:
            return self._batches.run(near[0])
        except BatchFailed:
            return False

    @property
    def queued(self) -> int:
        """Single steps that wait for the call that runs."""
        return self._batches.queued

    def _send_batch(self, near: Sequence[Entry]) -> list[bool]:
        return [self._send_now(near)] * len(near)

    def _send_now(self, near: Sequence[Entry]) -> bool:
        if self.is_away():
            return False
        try:
            self._broker.enqueue_many(near)
        except (BrokerConnectionError, QueueError) as error:
            # A Redis that hangs answers nobody: the next callers must not wait for its time-out one after the other.
            self._away_lane = near[0].message.queue_name
            self._away_until = math.inf if self._unmarked is not None else time.monotonic() + AWAY_SECONDS
            warn(log, error, "Redis did not take %d step(s), they will be sent again: %s", len(near), error)
            return False
        if self._unmarked is not None:
            sent_at = time.monotonic()
            self._unmarked.extend((sent_at, entry.id) for entry in near)
        return True

    def is_away(self) -> bool:
        """Redis failed, and is not asked again yet."""
        return time.monotonic() < self._away_until

    def ask_again(self) -> None:
        """See whether a Redis that failed answers now: for the loop, since one that hangs takes seconds of who asks."""
        if not self.is_away():
            return
        try:
            self._broker.queues_admin.totals(self._away_lane)
            faults = self._broker.check_health().faults
        except (BrokerConnectionError, QueueError) as error:
            log.debug("Redis is still away: %s", error)
            return
        # A full server answers questions, and takes no steps.
        if not faults.keys() & REFUSALS:
            self._away_until = 0.0

    def send_missing(self, steps: Sequence[Dispatch]) -> int:
        """Send steps for a rebuild; gives back how many Redis did not have.

        Raises:
            dramatiq's ConnectionClosed: Redis is away; the rebuild begins anew later.
        """
        now = datetime.now(UTC)
        return self._broker.enqueue_many([entry_of(step, now) for step in steps])

    def withdraw(self, steps: Sequence[Dispatch]) -> None:
        """Take messages of steps that ended back out of Redis; those that stay are settled when they are claimed."""
        for step in steps:
            try:
                self._broker.queues_admin.remove(step.lane, step.account, [step.id])
            except (BrokerConnectionError, QueueError) as error:
                warn(log, error, "the message of step %s stays in Redis until it is claimed: %s", step.id, error)
