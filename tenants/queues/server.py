"""The way to the server: runs scripts on connections of its own, and never runs one twice by itself.

redis-py's clients repeat a command whose answer was lost; for a claim that would take messages that nobody runs. So
this module sends each script exactly once and raises; whoever calls decides whether the same request may be sent
again. Connections are kept in a stack that every thread shares, so a process holds as many as it has calls at one
moment, not as many as it has threads.

Invariants: a connection that failed is closed before anybody else gets it; a connection inherited through `fork` is
never used; transient errors leave as Dramatiq's `ConnectionClosed`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any, Protocol, cast

import dramatiq.errors
import redis
from hiredis import pack_command
from redis.exceptions import NoScriptError, RedisError, ResponseError

from . import forks
from .errors import InvalidEntry, ServerRefuses, ServerUnreachable, UnsupportedServer, is_transient, to_dramatiq
from .lua import Script
from .urls import check_url

Argument = str | bytes | int | float

#: A connection unused for longer is looked at before it is used again: the server may have closed it.
_FRESH_SECONDS = 0.05
_LEAST_VERSION = (6, 2)
#: The maxmemory-policy with which a full server refuses writes and removes nothing.
KEEPING_POLICY = "noeviction"


class Wire(Protocol):
    """What is used of redis-py's connections, typed."""

    _sock: socket

    def send_command(self, *arguments: Argument) -> None: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool = ...) -> None: ...
    def read_response(self) -> Any: ...
    def can_read(self, timeout: float) -> bool: ...
    def disconnect(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers at the address."""

    #: As the server tells it: Redis' version, or Valkey's own.
    version: str
    #: Changes with every start of the server.
    run_id: str
    flavour: str


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """What is wrong with a server that answers: reason → what it means; empty when nothing is.

    The reasons are those of `ServerRefuses`, and `evicting`.
    """

    faults: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One script to run."""

    script: Script
    root: str
    arguments: Sequence[Argument]


class Server:
    """One server (or Sentinel-managed primary), by a redis-py connection pool.

    Raises:
        InvalidEntry: the client decodes answers; messages are bytes.
    """

    def __init__(
        self, pool: redis.ConnectionPool, client: redis.Redis | None = None, *, clustered: bool = False
    ) -> None:
        if pool.connection_kwargs.get("decode_responses"):
            raise InvalidEntry("client: it was made with decode_responses=True; the broker needs one without")
        self._pool = pool
        #: It is a node of a cluster: scripts are run in their guarded form.
        self.clustered = clustered
        #: For others' commands; the broker itself does not use it.
        self.client = client or redis.Redis(connection_pool=pool)
        self._idle: deque[tuple[Wire, float]] = deque()
        self._generation = forks.generation()
        self._opened = 0
        #: Called before every script until it returns once: a broker looks there whether it may work on these keys.
        self.before_scripts: Callable[[], None] | None = None

    def _prepare(self) -> None:
        before = self.before_scripts
        if before is not None:
            before()
            self.before_scripts = None

    @classmethod
    def connect(cls, url: str | None, client: redis.Redis | None, parameters: dict[str, Any]) -> Server:
        """By a client's pool, a URL, or redis-py's connection parameters, in this order."""
        if client is not None:
            return cls(client.connection_pool, client)
        parameters = with_time_limits(parameters)
        if url is not None:
            check_url(url)
            return cls(redis.ConnectionPool.from_url(url, **parameters))
        return cls(redis.Redis(**parameters).connection_pool)

    def at(self, key: str) -> Server:
        """Who serves the key: this server; on a cluster, the node that is known to hold it."""
        return self

    def distrust(self) -> None:
        """A node that `at` gave did not serve: a cluster asks anew who holds what."""

    def failure(self, error: RedisError | OSError) -> Exception:
        """What to raise for an error met on a connection of `at`."""
        return to_dramatiq(error)

    @property
    def address(self) -> str:
        """For people: host and port or the socket's path."""
        known = self._pool.connection_kwargs
        return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}")

    @property
    def connections(self) -> int:
        """Connections opened and not closed by this process."""
        return self._opened

    def take(self) -> Wire:
        """A connection for the caller alone; give it back with `keep`, or `drop` it.

        Raises:
            dramatiq.errors.ConnectionClosed: it cannot be opened.
        """
        if self._generation != forks.generation():
            self._idle = deque()
            self._generation = forks.generation()
            self._opened = 0
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            try:
                connection = cast(Wire, self._pool.get_connection())
            except (RedisError, OSError) as error:
                raise to_dramatiq(error) from error
            self._opened += 1
            return connection
        if time.monotonic() - used_at > _FRESH_SECONDS:
            try:
                stale = connection.can_read(0)
            except (RedisError, OSError):
                stale = True
            if stale:
                connection.disconnect()
        return connection

    def keep(self, connection: Wire) -> None:
        self._idle.append((connection, time.monotonic()))

    def drop(self, connection: Wire) -> None:
        connection.disconnect()
        self._pool.release(cast(redis.Connection, connection))
        self._opened -= 1

    def run(self, script: Script, root: str, *arguments: Argument) -> Any:
        """The script's answer. It was sent once: after an error it is unknown whether it ran.

        Raises:
            dramatiq.errors.ConnectionClosed: no answer, or the server cannot serve now.
            ScriptFailed: the server refused it.
        """
        if self.before_scripts is not None:
            self._prepare()
        if self.clustered:
            script = script.guarded
        packed = pack_command(("EVALSHA", script.sha, 1, root, *arguments))  # type: ignore[arg-type]
        connection = self.take()
        try:
            try:
                connection.send_packed_command((packed,), check_health=False)
                answer = connection.read_response()
            except NoScriptError:
                connection.send_command("EVAL", script.text, 1, root, *arguments)
                answer = connection.read_response()
        except ResponseError as error:
            self._after_refusal(connection, error)
            raise to_dramatiq(error) from error
        except (RedisError, OSError) as error:
            self.drop(connection)
            raise to_dramatiq(error) from error
        except BaseException:
            # An interrupt between sending and reading: the answer would be taken for the next command's.
            self.drop(connection)
            raise
        self._idle.append((connection, time.monotonic()))
        return answer

    def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of several scripts sent in one go, an exception standing in the place of a refused one."""
        if self.before_scripts is not None:
            self._prepare()
        if self.clustered:
            calls = [Call(call.script.guarded, call.root, call.arguments) for call in calls]
        connection = self.take()
        answers: list[Any] = []
        try:
            packed = [
                pack_command(("EVALSHA", call.script.sha, 1, call.root, *call.arguments))  # type: ignore[arg-type]
                for call in calls
            ]
            connection.send_packed_command((b"".join(packed),), check_health=False)
            for _ in calls:
                try:
                    answers.append(connection.read_response())
                except ResponseError as error:
                    answers.append(error)
            for position, call in enumerate(calls):
                if isinstance(answers[position], NoScriptError):
                    connection.send_command("EVAL", call.script.text, 1, call.root, *call.arguments)
                    try:
                        answers[position] = connection.read_response()
                    except ResponseError as error:
                        answers[position] = error
        except (RedisError, OSError) as error:
            self.drop(connection)
            raise to_dramatiq(error) from error
        except BaseException:
            self.drop(connection)
            raise
        self.keep(connection)
        return [to_dramatiq(answer) if isinstance(answer, ResponseError) else answer for answer in answers]

    def command(self, *arguments: Argument) -> Any:
        """The answer of a plain command."""
        connection = self.take()
        try:
            connection.send_command(*arguments)
            answer = connection.read_response()
        except ResponseError as error:
            self._after_refusal(connection, error)
            raise to_dramatiq(error) from error
        except (RedisError, OSError) as error:
            self.drop(connection)
            raise to_dramatiq(error) from error
        except BaseException:
            self.drop(connection)
            raise
        self.keep(connection)
        return answer

    def _after_refusal(self, connection: Wire, error: ResponseError) -> None:
        # A server that is read-only now may be a former primary: ask anew who the primary is.
        if is_transient(error):
            self.drop(connection)
        else:
            self.keep(connection)

    def check(self) -> ServerInfo:
        """What answers.

        Raises:
            ServerUnreachable: nobody answers there.
            UnsupportedServer: it is older than Redis 6.2.
        """
        try:
            fields = _info_fields(self.command("INFO", "server"))
        except dramatiq.errors.BrokerConnectionError as error:
            raise ServerUnreachable(f"no Redis or Valkey answers at {self.address}: {error}") from error
        except Exception as error:
            raise ServerUnreachable(f"the server at {self.address} refuses us: {error}") from error
        compatible = fields.get("redis_version", "0")
        if "cluster" in (fields.get("redis_mode"), fields.get("server_mode")) and not self.clustered:
            raise UnsupportedServer(
                f"the server at {self.address} is a node of a cluster; give a redis+cluster:// URL instead"
            )
        flavour = fields.get("server_name", "redis")
        version = fields.get(f"{flavour}_version", compatible)
        numbers = tuple(int(part) for part in compatible.split(".")[:2] if part.isdigit())
        if numbers < _LEAST_VERSION:
            raise UnsupportedServer(
                f"the server at {self.address} is {flavour} {version}; onelane needs Redis 6.2 or newer, or Valkey"
            )
        return ServerInfo(version=version, run_id=fields.get("run_id", ""), flavour=flavour)

    def health(self, keys: Sequence[str]) -> ServerHealth:
        """Whether the server takes writes to these keys, which are left as they are, and never evicts any.

        Raises:
            dramatiq.errors.ConnectionClosed: nobody answers.
        """
        faults: dict[str, str] = {}
        for key in keys:
            try:
                self.command("SETRANGE", key, 0, b"")
            except ServerRefuses as error:
                faults[error.reason] = error.meaning
        for policy in self._memory_policies():
            if policy != KEEPING_POLICY:
                faults["evicting"] = (
                    f"maxmemory-policy is {policy}: a full server removes keys of live queues; set it to "
                    f"{KEEPING_POLICY}"
                )
        return ServerHealth(faults)

    def _memory_policies(self) -> list[str]:
        try:
            fields = _info_fields(self.command("INFO", "memory"))
        except ServerRefuses:
            return []  # it is loading; it will say so later
        return [fields.get("maxmemory_policy", KEEPING_POLICY)]

    def close(self) -> None:
        """Closes what is not in use; the server may be used again afterwards."""
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return
            self.drop(connection)


def with_time_limits(parameters: dict[str, Any]) -> dict[str, Any]:
    """redis-py's connection parameters, with ours where the caller gave none."""
    return {"socket_timeout": 5.0, "socket_connect_timeout": 5.0, "max_connections": 2**20, **parameters}


def _info_fields(answer: Any) -> dict[str, str]:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    lines: Iterable[str] = text.splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
