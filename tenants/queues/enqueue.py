"""Sends entries to the enqueue script, many in one round trip.

Invariants: of the entries in one script call all are added or none; a new lane is registered before its first entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .entry import Entry
from .errors import QueueFull
from .keys import Keys, account_of, shard_of, token
from .known_lanes import KnownLanes
from .lua import script
from .server import Call, Server

_ENQUEUE = script("enqueue")
#: Entries of one script call. If all are one account's, up to the second: a tenant queue takes all of them or none.
_CHUNK = 200
_CHUNK_OF_ONE_ACCOUNT = 1000
#: Script calls of one round trip.
_CALLS_AT_ONCE = 10

Member = tuple[bytes, Entry]


def add_entries(server: Server, keys: Keys, known: KnownLanes, entries: Sequence[Entry]) -> int:
    """Adds entries. Returns how many were added: an entry that its queue holds already is not.

    Raises:
        QueueFull, dramatiq.errors.ConnectionClosed: as `TenantBroker.enqueue_many`; the other calls' entries are added.
    """
    calls: list[tuple[str, Call]] = []
    for root, members in _by_root(keys, entries).items():
        lane = members[0][1].message.queue_name
        known.make_known_once(lane)
        for chunk in _chunks(members):
            arguments = [argument for raw, entry in chunk for argument in entry.arguments(raw)]
            calls.append((lane, Call(_ENQUEUE, root, arguments)))
    added = 0
    failure: Exception | None = None
    for start in range(0, len(calls), _CALLS_AT_ONCE):
        batch = calls[start : start + _CALLS_AT_ONCE]
        for (lane, _), answer in zip(batch, server.run_many([call for _, call in batch]), strict=True):
            if isinstance(answer, Exception):
                failure = failure or answer
            elif answer[0] == b"full":
                failure = failure or QueueFull(lane, account_of(answer[1]), answer[2])
            else:
                added += sum(answer[1])
                if answer[0]:
                    known.make_known(lane)  # the server may have lost its data since the lane was registered
    if failure is not None:
        raise failure
    return added


def _by_root(keys: Keys, entries: Sequence[Entry]) -> dict[str, list[Member]]:
    """The entries of each lane or shard. One that is given twice counts once."""
    grouped: dict[str, dict[tuple[bytes, str], Entry]] = {}
    for entry in entries:
        raw = token(entry.message.options.get("account"))
        root = keys.root(entry.message.queue_name, shard_of(raw, keys.shards))
        grouped.setdefault(root, {}).setdefault((raw, entry.id), entry)
    return {root: [(raw, entry) for (raw, _), entry in members.items()] for root, members in grouped.items()}


def _chunks(members: Sequence[Member]) -> Iterator[list[Member]]:
    """The entries of each script call. One account's entries share a call, as far as they fit."""
    if len(members) <= _CHUNK:
        yield list(members)
        return
    by_account: dict[bytes, list[Member]] = {}
    for member in members:
        by_account.setdefault(member[0], []).append(member)
    chunk: list[Member] = []
    for own in by_account.values():
        if chunk and len(chunk) + len(own) > _CHUNK:
            yield chunk
            chunk = []
        for start in range(0, len(own), _CHUNK_OF_ONE_ACCOUNT):
            chunk += own[start : start + _CHUNK_OF_ONE_ACCOUNT]
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
