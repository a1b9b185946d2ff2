"""The error tree of the tenant-queue broker.

    QueueError
    ├── InvalidEntry            a value the broker cannot take (also a ValueError): account, lane, id, priority, limit
    ├── QueueFull               the tenant queue has reached its `max_waiting`; nothing was added
    ├── ServerUnreachable       no answer from the server (also Dramatiq's ConnectionFailed)
    ├── UnsupportedServer       it answers, but cannot do what the scripts need
    ├── EmbeddedServerFailed    the embedded server did not start or does not hold its data directory
    └── ScriptFailed            a script of ours was refused by the server: a bug or a full server
        └── SlotMoved           the server is a node of a cluster and does not hold the lane
    LeaseLost                   (Dramatiq's Interrupt) raised inside an actor whose message was given to another worker

Time-outs, a server that loads, fails over or is read-only become Dramatiq's `ConnectionClosed`, because its worker
knows how to wait for a broker that comes back. `to_dramatiq` is the one table of that.
"""

from __future__ import annotations

import dramatiq.errors
import redis.exceptions
from dramatiq.middleware import Interrupt

from .base_error import EmbeddedServerFailed as EmbeddedServerFailed
from .base_error import QueueError as QueueError


class InvalidEntry(QueueError, ValueError):
    """A value that the broker cannot take; the message names it and what is allowed."""


class QueueFull(QueueError):
    """The tenant queue holds as many messages as its `max_waiting` allows; nothing of the call was added to it."""

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


class ScriptFailed(QueueError):
    """The server refused a script; the message is the server's."""


class SlotMoved(ScriptFailed):
    """The lane is on another node of the cluster; nothing was done. Not met with a `redis+cluster://` URL."""

    def __init__(self, slot: int, host: str, port: int) -> None:
        super().__init__(
            f"slot {slot} has moved to {host}:{port}: the server is a node of a cluster; "
            "give the broker a redis+cluster:// URL"
        )
        self.slot = slot
        self.holder = (host, port)


class LeaseLost(Interrupt):
    """Raised in the thread of an actor whose lease is lost: another worker may be running the message already."""


#: What passes by itself: the worker waits and tries again.
TRANSIENT = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
    OSError,
)

#: Beginnings of error replies that redis-py has no class for, and that pass by themselves as well.
_TRANSIENT_REPLIES = (
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "BUSY ",
    "NOREPLICAS",
    "UNBLOCKED",
    "ASK ",
    # The slot of the lane is moving to another node; the scripts' guard met it before anything was done. Redis, Valkey:
    "Script attempted to access a non local key",
    "Attempted to access a non local key",
)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a moment later."""
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return False  # redis-py derives these from ConnectionError, but waiting does not mend a wrong password
    if isinstance(error, redis.exceptions.MovedError):
        return False
    if isinstance(error, (redis.exceptions.AskError, *TRANSIENT)):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(_TRANSIENT_REPLIES)


def to_dramatiq(error: BaseException) -> Exception:
    """The error that the broker raises for one of redis-py's."""
    if is_transient(error):
        closed: Exception = dramatiq.errors.ConnectionClosed(  # type: ignore[no-untyped-call]
            f"{type(error).__name__}: {error}"
        )
        return closed
    if isinstance(error, redis.exceptions.MovedError):
        return SlotMoved(error.slot_id, error.host, error.port)
    return ScriptFailed(f"{type(error).__name__}: {error}")
