"""Keys of other releases with another layout: detected, refused, migrated to this layout, removed.

Each layout has its own keys (see `keys`), so releases with different layouts never read each other's state and can run
side by side. A broker that is used alone refuses to work beside messages in another layout, because no process would
run them; `carry_over` moves them to this layout. Under onelane the messages are in SQL, and the reconciler sends them
again.

Invariant: keys of another layout are removed when they hold nothing. A caller that has all messages elsewhere can also
have them removed (`remove`), once no process has used them for a time (`is_unused`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ScriptFailed, UnsupportedLayout
from .keys import LAYOUT, QUEUE_KEYS, Keys, account_of
from .limits import FOR_GOOD, StoredSettings
from .lua import script
from .server import Server
from .tenant_queue import TenantQueues

#: The layout that `carry_over` reads: that of the releases before the keys had a number.
_OLD_LAYOUT = 1
#: The lane's own state in layout 1, and the positions of its pause and its global concurrency.
_LANE_STATE, _PAUSED, _GLOBAL = struct.Struct(">14d"), 5, 6
_AT_ONCE = 200
_SCANNED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class CarriedOver:
    """What `carry_over` has done."""

    #: Messages that are in this release's layout now.
    messages: int
    #: Messages that a worker of the earlier release may still run: call again once its leases have ended.
    left: int


class Layouts:
    """The layouts of a namespace. Every method may raise Dramatiq's `ConnectionClosed`."""

    def __init__(self, server: Server, keys: Keys, admin: TenantQueues) -> None:
        self._server = server
        self._keys = keys
        self._admin = admin

    def others(self) -> list[int]:
        """The numbers of the other layouts whose keys the namespace has, ascending."""
        numbers = {int(raw) for raw in self._server.command("SMEMBERS", self._keys.layouts)}
        if self._server.command("EXISTS", self._keys.lanes_of(_OLD_LAYOUT)):
            numbers.add(_OLD_LAYOUT)
        return sorted(numbers - {LAYOUT})

    def note(self) -> None:
        """Records that the namespace has keys of this release's layout."""
        self._server.command("SADD", self._keys.layouts, LAYOUT)

    def refuse_others(self) -> None:
        """Records this layout, unless the namespace has keys of another one.

        Raises:
            UnsupportedLayout: it has; the text says what to do.
        """
        others = self.others()
        if others:
            where = f"namespace {self._keys.namespace!r} at {self._server.address}"
            raise UnsupportedLayout(where, others, LAYOUT, can_carry=others == [_OLD_LAYOUT])
        self.note()

    # -- migration from layout 1

    def carry_over(self) -> CarriedOver:
        """Moves settings and messages of layout 1 to this layout, and removes its keys once they hold nothing.

        The processes of the earlier release must have been stopped. It can be called again at any time.

        Raises:
            UnsupportedLayout: the namespace has keys of a layout that this release does not know.
        """
        others = self.others()
        if set(others) - {_OLD_LAYOUT}:
            where = f"namespace {self._keys.namespace!r} at {self._server.address}"
            raise UnsupportedLayout(where, others, LAYOUT, can_carry=False)
        if not others:
            return CarriedOver(0, 0)
        messages = left = 0
        for raw in sorted(self._server.command("SMEMBERS", self._keys.lanes_of(_OLD_LAYOUT))):
            lane = raw.decode()
            for shard in range(self._keys.shards):
                self._carry_settings(lane, shard)
                self._carry_buried(lane, shard)
                for token in self._tokens(lane, shard):
                    carried, kept = self._carry_queue(lane, shard, token)
                    messages, left = messages + carried, left + kept
        self._carry_paused_accounts()
        if not left:
            self.remove(_OLD_LAYOUT)
        self.note()
        return CarriedOver(messages, left)

    def _carry_settings(self, lane: str, shard: int) -> None:
        old = self._keys.root(lane, shard, layout=_OLD_LAYOUT)
        for pairs in self._server.scan("HSCAN", f"{old}:limits", _AT_ONCE):
            found = {account_of(raw): value for raw, value in zip(pairs[::2], pairs[1::2], strict=True)}
            settings = {name: StoredSettings.decode(value) for name, value in found.items() if name is not None}
            if settings:
                self._admin.set_settings(lane, settings)
        state = self._server.command("GET", old)
        if state is not None and len(state) == _LANE_STATE.size:
            fields = _LANE_STATE.unpack(state)
            root = self._keys.root(lane, shard)
            for name, at in (("paused", _PAUSED), ("global", _GLOBAL)):
                if fields[at]:
                    self._server.run(script("configure_lane"), root, name, int(fields[at]))

    def _carry_buried(self, lane: str, shard: int) -> None:
        old, new = self._keys.root(lane, shard, layout=_OLD_LAYOUT), self._keys.root(lane, shard)
        for pairs in self._server.scan("HSCAN", f"{old}:graves", _AT_ONCE):
            for buried_id, message in zip(pairs[::2], pairs[1::2], strict=True):
                self._server.command("HSET", f"{new}:graves", buried_id, message)
                self._server.command("ZADD", f"{new}:buried", int(buried_id) // 1000, buried_id)

    def _carry_paused_accounts(self) -> None:
        old = f"{self._keys.lanes_of(_OLD_LAYOUT)}:paused"
        found = self._server.command("ZRANGE", old, 0, -1, "WITHSCORES")
        for raw, score in zip(found[::2], found[1::2], strict=True):
            until = "+inf" if float(score) in (float("inf"), FOR_GOOD) else score
            self._server.command("ZADD", self._keys.paused_accounts, until, raw)

    def _carry_queue(self, lane: str, shard: int, token: bytes) -> tuple[int, int]:
        old, new = self._keys.root(lane, shard, layout=_OLD_LAYOUT), self._keys.root(lane, shard)
        messages = 0
        while True:
            carried, left, more = self._server.run(script("carry"), new, old, token, _AT_ONCE)
            messages += carried
            if not more:
                return messages, left

    def _tokens(self, lane: str, shard: int) -> list[bytes]:
        root = self._keys.root(lane, shard, layout=_OLD_LAYOUT)
        beginning = (root + QUEUE_KEYS["entries"][0]).encode()
        return sorted({key[len(beginning) :] for key in self._scan(root) if key.startswith(beginning)})

    # -- removing

    def is_unused(self, layout: int, seconds: float) -> bool:
        """Whether no lane's own state in that layout was used for so long; every claim uses it.

        False if the server cannot say: under a maxmemory-policy that counts uses, it keeps no times.
        """
        for raw in self._server.command("SMEMBERS", self._keys.lanes_of(layout)):
            for shard in range(self._keys.shards):
                root = self._keys.root(raw.decode(), shard, layout=layout)
                try:
                    idle = self._server.at(root).command("OBJECT", "IDLETIME", root)
                except ScriptFailed:
                    return False
                if idle is not None and int(idle) < seconds:
                    return False
        return True

    def remove(self, layout: int) -> None:
        """Removes all keys of that layout."""
        lanes = self._keys.lanes_of(layout)
        for raw in self._server.command("SMEMBERS", lanes):
            for shard in range(self._keys.shards):
                root = self._keys.root(raw.decode(), shard, layout=layout)
                node = self._server.at(root)
                for key in self._scan(root):
                    node.command("UNLINK", key)
        for name in (f"{lanes}:paused", self._keys.generation_of(layout), lanes):
            self._server.command("DEL", name)
        self._server.command("SREM", self._keys.layouts, layout)

    def _scan(self, root: str) -> Iterator[bytes]:
        for page in self._server.at(root).scan_keys(f"{root}*", _SCANNED_AT_ONCE):
            yield from page
