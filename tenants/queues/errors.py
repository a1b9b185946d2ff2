"""The error tree of the tenant-queue broker.

    QueueError
    ├── InvalidEntry            a value that is not allowed (also a ValueError): account, lane, id, priority, limit
    ├── QueueFull               the tenant queue has reached its `max_waiting`; nothing was added
    ├── ServerUnreachable       no answer from the server (also Dramatiq's ConnectionFailed)
    ├── UnsupportedServer       the server answers, but cannot run the scripts
    ├── UnsupportedLayout       the namespace has keys of a release with another layout
    ├── EmbeddedServerFailed    the embedded server did not start or does not hold its data directory
    └── ScriptFailed            the server refused a script: a bug
        └── SlotMoved           the server is a node of a cluster and does not hold the lane
    ServerRefuses               (Dramatiq's ConnectionClosed) the server answers, and refuses such calls for now
    LeaseLost                   (Dramatiq's Interrupt) raised inside an actor whose message was given to another worker

Time-outs become Dramatiq's `ConnectionClosed`, because its worker waits for a broker that comes back. A server that is
full, read-only, cannot save, loads or fails over becomes `ServerRefuses`, a subclass that says why. `to_dramatiq`
decides that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import dramatiq.errors
import redis.exceptions
from dramatiq.middleware import Interrupt

from .base_error import EmbeddedServerFailed as EmbeddedServerFailed
from .base_error import QueueError as QueueError


class InvalidEntry(QueueError, ValueError):
    """A value that is not allowed; the text names it and what is allowed."""


class QueueFull(QueueError):
    """The tenant queue holds as many messages as its `max_waiting` allows; the call added nothing to it."""

    def __init__(self, lane: str, account: str | None, max_waiting: int) -> None:
        super().__init__(f"queue {lane!r} of account {account!r} is full: {max_waiting} messages wait already")
        self.lane = lane
        self.account = account
        self.max_waiting = max_waiting


class ServerUnreachable(QueueError, dramatiq.errors.ConnectionFailed):
    """No server answers at the address."""

    def __init__(self, message: str) -> None:
        dramatiq.errors.ConnectionFailed.__init__(self, message)  # type: ignore[no-untyped-call]


class UnsupportedServer(QueueError):
    """The server is too old, or lacks scripting."""


class UnsupportedLayout(QueueError):
    """The namespace has keys of a release with another layout; the text says what to do."""

    def __init__(self, where: str, others: Sequence[int], layout: int, *, can_carry: bool) -> None:
        found = ", ".join(map(str, others))
        if can_carry:
            help = f"Stop its processes and run `python -m {__package__} carry-over URL` to bring its messages here"
        else:
            help = "Use that release for it"
        super().__init__(
            f"{where} has keys of layout {found}, which another release made; this release uses layout {layout}. "
            f"{help}, or give the broker another namespace."
        )
        self.others = tuple(others)


class ScriptFailed(QueueError):
    """The server refused a script; the text is the server's."""


class SlotMoved(ScriptFailed):
    """The lane is on another node of the cluster; nothing was done. Not raised with a `redis+cluster://` URL."""

    def __init__(self, slot: int, host: str, port: int) -> None:
        super().__init__(
            f"slot {slot} has moved to {host}:{port}: the server is a node of a cluster; "
            "give the broker a redis+cluster:// URL"
        )
        self.slot = slot
        self.holder = (host, port)


class ServerRefuses(dramatiq.errors.ConnectionClosed):
    """The server answers, and refuses such calls for now. Nothing was done; the same call may succeed later.

    `reason` is one of `REFUSALS`, `meaning` says what is wrong; the text holds the server's own words as well.
    """

    def __init__(self, reason: str, meaning: str, reply: str) -> None:
        super().__init__(f"{meaning} ({reply})")  # type: ignore[no-untyped-call]
        self.reason = reason
        self.meaning = meaning


class LeaseLost(Interrupt):
    """Raised in the thread of an actor whose lease is lost: another worker may be running the message already."""


#: Errors that pass by themselves: the worker waits and tries again.
TRANSIENT = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)

#: Code of an error reply → the reason of the refusal, and what it means.
_CODES = {
    "OOM": ("full", "the server has reached its maxmemory and takes no writes"),
    "MISCONF": ("cannot_save", "the server cannot save its data to disk and takes no writes"),
    "READONLY": ("read_only", "the server is a read-only replica"),
    "NOREPLICAS": ("too_few_replicas", "the server has fewer replicas than min-replicas-to-write and takes no writes"),
    "LOADING": ("loading", "the server is loading its data"),
    "MASTERDOWN": ("failing_over", "the server is a replica whose primary does not answer"),
    "CLUSTERDOWN": ("failing_over", "the cluster does not serve all slots"),
    "TRYAGAIN": ("failing_over", "a slot is moving to another node"),
    "BUSY": ("busy", "a script of somebody keeps the server busy"),
}
#: Every `reason` of a `ServerRefuses`.
REFUSALS = sorted({reason for reason, _ in _CODES.values()})
#: redis-py removes the code from replies for which it has a class.
_CODE_OF_CLASS = {
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}
#: The reply starts with the code. Redis before 7 puts it in the middle, after a hyphen, if a script got the error.
_CODE = re.compile(rf"({'|'.join(_CODES)}) ")
_CODE_IN_SCRIPT = re.compile(rf"Error running script.* -({'|'.join(_CODES)}) ", re.DOTALL)

#: Beginnings of other error replies that pass by themselves.
_TRANSIENT_REPLIES = (
    "UNBLOCKED",
    "ASK ",
    # The slot of the lane is moving to another node; the scripts' guard failed before anything was done. Redis, Valkey:
    "Script attempted to access a non local key",
    "Attempted to access a non local key",
)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a moment later."""
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return False  # redis-py derives these from ConnectionError, but waiting does not correct a wrong password
    if isinstance(error, redis.exceptions.MovedError):
        return False
    if isinstance(error, (redis.exceptions.AskError, *TRANSIENT)) or _code_of(error) is not None:
        return True
    return isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(_TRANSIENT_REPLIES)


def _code_of(error: BaseException) -> str | None:
    """The code of a reply by which a server refuses calls for now."""
    for kind, code in _CODE_OF_CLASS.items():
        if isinstance(error, kind):
            return code
    if not isinstance(error, redis.exceptions.ResponseError):
        return None
    found = _CODE.match(str(error)) or _CODE_IN_SCRIPT.search(str(error))
    return found[1] if found else None


def to_dramatiq(error: BaseException) -> Exception:
    """The error that the broker raises for one of redis-py's."""
    code = _code_of(error)
    if code is not None:
        reason, meaning = _CODES[code]
        return ServerRefuses(reason, meaning, f"{code}: {error}")
    if is_transient(error):
        closed: Exception = dramatiq.errors.ConnectionClosed(  # type: ignore[no-untyped-call]
            f"{type(error).__name__}: {error}"
        )
        return closed
    if isinstance(error, redis.exceptions.MovedError):
        return SlotMoved(error.slot_id, error.host, error.port)
    return ScriptFailed(f"{type(error).__name__}: {error}")
