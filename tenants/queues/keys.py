"""The names of all keys, for Python and for the scripts; no other module makes one.

Every key of a lane (or of a lane's shard) starts with its root, `namespace:layout:{lane}`. The braces are the hash tag
that keeps the lane on one node of a cluster. The layout is the version of the stored format, so releases with different
layouts use different keys and never read each other's. A key of one tenant queue ends with the account's token, raw and
last, so that no account id can name another account's key, whatever characters it has:

    account "a:b{c}"  →  token "@a:b{c}"  →  onelane:2:{publish}:waiting:@a:b{c}
    no account        →  token "-"

The root itself holds the lane's own state, packed as doubles: virtual time, last sequence, last epoch, waiting,
delayed, pause, global concurrency, mean µs, last slot, whether settings exist, last poll, work not in the virtual time
yet, starts, dwell time.

Invariants: `token` is injective; the names of lanes and namespaces contain neither a brace nor a colon; a script gets
the root as KEYS[1], and `K.name` in it is replaced by the key's name from this module.
"""

from __future__ import annotations

import re
import zlib

from .errors import InvalidEntry

MAX_ACCOUNT_CHARACTERS = 200

#: The layout of the keys. It changes with every change of a stored format that an older release cannot read. Layout 1
#: had no number in its keys. `scripts/include/queue.lua` has the number too.
LAYOUT = 2

#: Keys of the lane as a whole: name in the scripts → (suffix, what it holds).
LANE_KEYS = {
    "ready": (":ready", "zset token → virtual start (µs): accounts that may start something now"),
    "timers": (":timers", "zset token → ms: accounts to be checked again at a time"),
    "idle": (":idle", "zset token → ms: tenant queues that are empty, and since when"),
    "names": (":names", "zset token → 0: every tenant queue that has state, in the order of names"),
    "leases": (":leases", "zset slot:token → ms at which the lease expires"),
    "since": (":since", "zset token → ms at which the account's next message arrived"),
    "backlog": (":backlog", "zset token → number of waiting messages"),
    "limits": (":limits", "hash token → settings that differ from the defaults; survives the reaper"),
    "bell": (":bell", "list, at most one element: something can start, or an earlier due time is known"),
    "damaged": (":damaged", "zset token → ms: tenant queues whose keys were found to disagree; checked first"),
    "buried": (":buried", "zset buried id → ms when it was buried"),
    "buried_messages": (":graves", "hash buried id → the buried message with reason, account and entry id"),
}

#: Keys of one tenant queue: a token follows.
QUEUE_KEYS = {
    "state": (
        ":state:",
        "layout, standing, virtual start, mean µs, last used, rate, hold, due, spent, heavy, others, count, lease of 0",
    ),
    "waiting": (":waiting:", "zset entry id → rank and sequence"),
    "delayed": (":delayed:", "zset entry id → ms at which it is due"),
    "entries": (":entries:", "hash entry id → score:added:deliveries:message; there while waiting, delayed or leased"),
    "slots": (":slots:", "hash slot → the lease record of a slot other than 0: the slot *is* the lease"),
}

#: Keys of the lane that end otherwise.
OTHER_KEYS = {
    "worker": (":worker:", "hash r<channel> → last answer there: request:results:what it started"),
    "spent": (":spent:", "zset token → µs used in an hour (number of the hour since 1970)"),
}

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


def check_name(kind: str, name: str) -> str:
    """The name, unchanged.

    Raises:
        InvalidEntry: `name` has characters other than letters, digits, `_`, `.` and `-`.
    """
    if not _PLAIN.fullmatch(name):
        raise InvalidEntry(f"{kind}: {name!r} may have letters, digits, '_', '.' and '-' only (1 to 200)")
    return name


def token(account: str | None) -> bytes:
    """The account's name in keys; different for all accounts and None.

    Raises:
        InvalidEntry: empty, longer than 200 characters, not a string, or not encodable (a lone surrogate).
    """
    if account is None:
        return b"-"
    if not isinstance(account, str):
        raise InvalidEntry(f"account: {account!r} is not a string")
    if not 0 < len(account) <= MAX_ACCOUNT_CHARACTERS:
        raise InvalidEntry(f"account: it has {len(account)} characters; 1 to {MAX_ACCOUNT_CHARACTERS} are allowed")
    try:
        return b"@" + account.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidEntry(f"account: {account!r} holds a lone surrogate, which no key can carry") from None


def account_of(raw: bytes) -> str | None:
    """The inverse of `token`."""
    return None if raw == b"-" else raw[1:].decode("utf-8")


def shard_of(raw: bytes, shards: int) -> int:
    """The number of the lane's shard that has the account, the same in every process and release."""
    return zlib.crc32(raw) % shards if shards > 1 else 0


class Keys:
    """The roots of a namespace's lanes."""

    def __init__(self, namespace: str, shards: int = 1) -> None:
        self.namespace = check_name("namespace", namespace)
        self.shards = shards
        self._prefix = self._prefix_of(LAYOUT)

    def _prefix_of(self, layout: int) -> str:
        return self.namespace if layout == 1 else f"{self.namespace}:{layout}"

    def root(self, lane: str, shard: int = 0, *, layout: int = LAYOUT) -> str:
        """KEYS[1] of every script, and the name of the lane's own state."""
        check_name("lane", lane)
        # A lane's name has no slash, so no lane has the same tag as another lane's shard.
        tag = f"{lane}/{shard}" if self.shards > 1 else lane
        return f"{self._prefix_of(layout)}:{{{tag}}}"

    def bell(self, lane: str, shard: int = 0) -> str:
        return self.root(lane, shard) + LANE_KEYS["bell"][0]

    def limits(self, lane: str, shard: int = 0) -> str:
        return self.root(lane, shard) + LANE_KEYS["limits"][0]

    @property
    def layouts(self) -> str:
        """Set of the numbers of the layouts, from 2 on, of which the namespace has keys."""
        return f"{self.namespace}:layouts"

    def lanes_of(self, layout: int) -> str:
        """`lanes` in that layout."""
        return f"{self._prefix_of(layout)}:lanes"

    def generation_of(self, layout: int) -> str:
        """`generation` in that layout."""
        return f"{self._prefix_of(layout)}:generation"

    @property
    def lanes(self) -> str:
        """Set of the lanes that have ever had a message or a setting."""
        return f"{self._prefix}:lanes"

    @property
    def paused_accounts(self) -> str:
        """Zset account's token → ms: accounts that are paused on all lanes, also on future ones; `+inf`: for good."""
        return f"{self._prefix}:lanes:paused"

    @property
    def generation(self) -> str:
        """The number by which the reconciler detects that Redis has lost its data."""
        return f"{self._prefix}:generation"


#: `K.name` in a script → its suffix.
_SUFFIXES = {
    **{name: suffix for name, (suffix, _) in LANE_KEYS.items()},
    **{name: suffix for name, (suffix, _) in QUEUE_KEYS.items()},
    **{name: suffix for name, (suffix, _) in OTHER_KEYS.items()},
}
_NAMED = re.compile(r"\bK\.(\w+)")


def with_key_names(text: str) -> str:
    """Lua with each `K.name` replaced by the expression that makes the key, so that a call makes only what it uses.

    Raises:
        KeyError: there is no such key.
    """
    return _NAMED.sub(lambda match: f"R .. '{_SUFFIXES[match[1]]}'", text)


def lua_root(guarded: bool = False) -> str:
    """Lua that defines `R`, the root; with `guarded` it touches the lane's keys at once.

    While a slot moves between two nodes of a cluster, a command on a key that has moved is an error, and an error in
    the middle of a script leaves its first half done. So the guarded form starts with one command on every key of the
    lane and on one that never exists: it fails exactly while the slot moves, before anything is written.
    """
    root = "local R = KEYS[1]\n"
    if not guarded:
        return root
    touched = ", ".join(f"K.{name}" for name in LANE_KEYS)
    return f"{root}redis.call('EXISTS', R, {touched}, R .. ':never')\n"
