"""Claims of messages: taken from the server, given back unstarted, and rescheduled.

Invariants: each claimed message holds one permit of the thread budget until it is settled or given back; a claim whose
answer was lost is sent again under the number of its first try, so that the server repeats its answer.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from dramatiq import Message
from dramatiq.errors import BrokerConnectionError, DecodeError

from .entry import milliseconds
from .errors import ServerRefuses
from .lane_state import LaneState
from .lua import script
from .message import LeasedMessage
from .notices import warn
from .server import Server
from .worker_state import WorkerState

_CLAIM = script("claim")
_GIVE_BACK = script("give_back")
_RESCHEDULE = script("reschedule")
_RING = script("ring")


def with_one_retry(send: Callable[[int], Any], again: int = 0) -> Any:
    """Sends a call; if its answer is lost, sends it once more with 1 for `again`. A refusal is raised at once."""
    try:
        return send(again)
    except ServerRefuses:
        raise
    except BrokerConnectionError:
        return send(1)


class Claims:
    """The claims of one process, on any lane."""

    def __init__(self, server: Server, worker: WorkerState) -> None:
        self.logger = logging.getLogger(__name__)
        self._server = server
        self._worker = worker

    def claim(self, state: LaneState, permits: int) -> tuple[list[LeasedMessage], list[LeasedMessage]]:
        """Claims up to `permits` messages: those to run, and those that cannot be decoded. Unused permits are released.

        Raises:
            dramatiq.errors.ConnectionClosed: no answer to two tries, or the server refuses.
        """
        sent_at = time.monotonic()
        leases = self._worker.leases
        number = leases.open_request()
        channel = state.take_channel()
        taken = 0
        try:
            answer = with_one_retry(
                lambda again: self._server.run(
                    _CLAIM, state.root, leases.worker, number, again, permits, leases.lease_ms, channel
                )
            )
            state.record_answer(answer[0], answer[1], sent_at)
            messages, undecodable = self.receive(state, answer[2], answer[3], sent_at)
            taken = len(messages)
            return messages, undecodable
        finally:
            state.return_channel(channel)
            leases.close_request(number)
            if taken < permits:
                self._worker.budget.release(state.key, permits - taken)

    def receive(
        self, state: LaneState, claimed: list[bytes], server_ms: int, sent_at: float
    ) -> tuple[list[LeasedMessage], list[LeasedMessage]]:
        """Reads a claim's or settle's answer: the messages to run, and those that cannot be decoded. All are leased."""
        messages: list[LeasedMessage] = []
        undecodable: list[LeasedMessage] = []
        parts = iter(claimed)
        for raw_token, slot, epoch, entry_id, stored in zip(parts, parts, parts, parts, parts, strict=True):
            _, added, deliveries, payload = stored.split(b":", 3)
            found = messages
            try:
                message = Message.decode(payload)
            except DecodeError as error:
                self.logger.error("Burying entry %r, which cannot be decoded.", entry_id, exc_info=error)
                found = undecodable
                message = Message(state.lane, "undecodable", (), {}, {}, message_id=entry_id.decode())
            found.append(
                LeasedMessage(
                    message,
                    lane_state=state,
                    record_reschedule=self._record_reschedule,
                    token=raw_token,
                    entry_id=entry_id.decode(),
                    slot=int(slot),
                    epoch=int(epoch),
                    deliveries=int(deliveries),
                    waited_seconds=max(0, server_ms - int(added)) / 1000,
                    leased_at=sent_at,
                )
            )
        self._worker.leases.add_all([*messages, *undecodable])
        return messages, undecodable

    def give_back(self, messages: Iterable[LeasedMessage]) -> None:
        """Ends leases of messages that never started: they wait again at their old place.

        Raises:
            dramatiq.errors.ConnectionClosed: the server cannot be reached; the leases expire.
        """
        by_state: dict[LaneState, list[LeasedMessage]] = defaultdict(list)
        for message in messages:
            message.settling = True
            by_state[message.lane_state].append(message)
        failure: BrokerConnectionError | None = None
        for state, members in by_state.items():
            named = [part for each in members for part in (each.token, each.slot, each.epoch)]
            send = partial(self._server.run, _GIVE_BACK, state.root, *named)
            try:
                with_one_retry(lambda _, send=send: send())  # type: ignore[misc]
            except BrokerConnectionError as error:
                failure = error
            finally:
                self._worker.leases.remove_all(members)
                self._worker.budget.release(state.key, len(members))
        if failure is not None:
            raise failure

    def give_back_unstarted(self) -> None:
        """Gives back the messages on the worker's queue."""
        self.give_back(self._worker.take_unstarted())

    def signal_bell(self, state: LaneState) -> None:
        """Signals the lane's bell again for another process, because this one took it and has no free thread."""
        try:
            self._server.run(_RING, state.root)
        except BrokerConnectionError as error:
            # Every consumer polls within a second anyway.
            self.logger.debug("Could not signal the bell again: %s", error)

    def _record_reschedule(self, message: LeasedMessage, delay_seconds: float, new: Message[Any] | None) -> bool:
        """Records a reschedule on the server, in case this process dies before it settles. False: the lease is lost."""
        lease = (message.token, message.slot, message.epoch)
        payload = new.encode() if new is not None else b""
        try:
            recorded = with_one_retry(
                lambda _: self._server.run(
                    _RESCHEDULE, message.lane_state.root, *lease, milliseconds(delay_seconds), payload
                )
            )
        except BrokerConnectionError as error:
            warn(self.logger, error, "Reschedule of entry %r is sent with its settle: %s", message.entry_id, error)
            return True
        return bool(recorded)
