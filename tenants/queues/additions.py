"""Messages and entries on their way to the enqueue script.

Invariants: of the entries that one script adds all or none are added; a lane that is new becomes known.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dramatiq import Actor, Message
from dramatiq.broker import MessageProxy
from dramatiq.common import current_millis

from .entry import DEFAULT_PRIORITY, Entry, milliseconds, rank_of_actor
from .errors import QueueFull
from .keys import Keys, account_of, shard_of, token
from .known_lanes import KnownLanes
from .lua import script
from .server import Argument, Call, Server

_ENQUEUE = script("enqueue")
#: Entries that one script adds (more, up to the second, where they are one account's), and scripts that one round trip
#: carries.
_CHUNK = 200
_MOST_OF_ONE = 1000
_PIPELINED = 10


class Addition:
    """One entry on its way to the enqueue script."""

    __slots__ = ("delay_ms", "entry_id", "message", "rank", "sequence", "token")

    def __init__(self, message: Message[Any], entry_id: str, rank: int, sequence: int | None, delay_ms: int) -> None:
        self.message = message
        self.token = token(message.options.get("account"))
        self.entry_id = entry_id
        self.rank = rank
        self.sequence = sequence
        self.delay_ms = delay_ms

    @classmethod
    def of_message(cls, actors: Mapping[str, Actor[Any, Any]], message: Message[Any], delay_ms: int) -> Addition:
        actor = actors.get(message.actor_name)
        rank = rank_of_actor(actor.priority) if actor is not None else DEFAULT_PRIORITY
        return cls(message, uuid.uuid4().hex, rank, None, delay_ms)

    @classmethod
    def of_entry(cls, message: Message[Any], entry: Entry) -> Addition:
        return cls(message, entry.id, entry.priority, entry.sequence, milliseconds(entry.delay_seconds))

    def fields(self) -> tuple[Argument, ...]:
        sequence = "" if self.sequence is None else self.sequence
        return (
            self.token,
            self.entry_id,
            self.rank,
            sequence,
            self.delay_ms,
            self.message.encode(),
        )


def add(server: Server, keys: Keys, known: KnownLanes, additions: Sequence[Addition]) -> int:
    """Adds entries, in a few round trips. Returns how many were really added.

    Raises:
        QueueFull, dramatiq.errors.ConnectionClosed: as `TenantBroker.enqueue_many`; what could be added is.
    """
    calls: list[tuple[str, Call]] = []
    for root, members in _by_root(keys, additions).items():
        lane = members[0].message.queue_name
        known.make_known_once(lane)
        calls.extend(
            (lane, Call(_ENQUEUE, root, [field for each in chunk for field in each.fields()]))
            for chunk in _chunks(members)
        )
    added = 0
    failure: Exception | None = None
    for start in range(0, len(calls), _PIPELINED):
        batch = calls[start : start + _PIPELINED]
        for (lane, _), answer in zip(batch, server.run_many([call for _, call in batch]), strict=True):
            if isinstance(answer, Exception):
                failure = failure or answer
            elif answer[0] == b"full":
                failure = failure or QueueFull(lane, account_of(answer[1]), answer[2])
            else:
                added += sum(answer[1])
                if answer[0]:
                    known.make_known(lane)  # the server may have lost its data since it was made known
    if failure is not None:
        raise failure
    return added


def _by_root(keys: Keys, additions: Sequence[Addition]) -> dict[str, list[Addition]]:
    grouped: dict[str, list[Addition]] = {}
    seen: set[tuple[str, bytes, str]] = set()
    for each in additions:
        root = keys.root(each.message.queue_name, shard_of(each.token, keys.shards))
        # One that is named twice takes room once.
        name = (root, each.token, each.entry_id)
        if name not in seen:
            seen.add(name)
            grouped.setdefault(root, []).append(each)
    return grouped


def _chunks(members: Sequence[Addition]) -> Iterator[list[Addition]]:
    """What one script each adds: never a part of what is for one account, because its queue takes all or nothing."""
    if len(members) <= _CHUNK:
        yield list(members)
        return
    by_account: dict[bytes, list[Addition]] = {}
    for each in members:
        by_account.setdefault(each.token, []).append(each)
    chunk: list[Addition] = []
    for entries in by_account.values():
        if chunk and len(chunk) + len(entries) > _CHUNK:
            yield chunk
            chunk = []
        for start in range(0, len(entries), _MOST_OF_ONE):
            chunk += entries[start : start + _MOST_OF_ONE]
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def plain_message(message: Message[Any] | MessageProxy) -> Message[Any]:
    """A copy of the message, also where a consumer's proxy of it is given; its options are the copy's own."""
    given = message._message if isinstance(message, MessageProxy) else message
    # Not by `Message.copy`, which takes three times as long, for each message that is sent.
    return Message(
        given.queue_name,
        given.actor_name,
        given.args,
        given.kwargs,
        dict(given.options),
        given.message_id,
        given.message_timestamp,
    )


def without_eta(message: Message[Any], delay: int | None) -> tuple[Message[Any], int]:
    """The message without Dramatiq's `eta`, and its delay in ms; an explicit delay wins."""
    if "eta" not in message.options:
        return message, max(0, delay or 0)
    options = dict(message.options)
    eta = options.pop("eta")
    if delay is None and isinstance(eta, int | float):
        delay = max(0, int(eta - current_millis()))
    fields = message.asdict()
    fields["options"] = options
    return Message(**fields), max(0, delay or 0)
