"""The connection to the server: runs scripts, and sends each one exactly once.

redis-py's clients repeat a command whose answer was lost. A repeated claim would lease messages that no thread runs. So
this module raises instead, and the caller decides whether the same request may be sent again. All threads share one
stack of connections, so a process has as many connections as calls at one moment, not as many as threads.

Invariants: a connection that failed is closed before another thread gets it; a connection inherited through `fork` is
never used; transient errors are raised as Dramatiq's `ConnectionClosed`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

#: A connection that was unused for longer is checked before it is used again: the server may have closed it.
_FRESH_SECONDS = 0.05
_LEAST_VERSION = (6, 2)
#: The maxmemory-policy with which a full server refuses writes and removes nothing.
KEEPING_POLICY = "noeviction"


class Wire(Protocol):
    """The part of redis-py's connections that is used here, with types."""

    _sock: socket

    def send_command(self, *arguments: Argument) -> None: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool = ...) -> None: ...
    def read_response(self) -> Any: ...
    def can_read(self, timeout: float) -> bool: ...
    def disconnect(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Which server answers at the address."""

    #: Redis' version, or Valkey's own.
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
        #: It is a node of a cluster, which runs the guarded form of each script.
        self.clustered = clustered
        #: For the caller's own commands; the broker does not use it.
        self.client = client or redis.Redis(connection_pool=pool)
        self._idle: deque[tuple[Wire, float]] = deque()
        self._generation = forks.generation()
        self._opened = 0
        #: Called before every script until it returns once: a broker checks there whether it may use these keys.
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
        """The server of the key: this one, or the node of a cluster that is known to hold it."""
        return self

    def distrust(self) -> None:
        """A node from `at` did not answer: a cluster reads its map of slots again."""

    def failure(self, error: RedisError | OSError) -> Exception:
        """The exception for an error on a connection of a node from `at`."""
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
        """A connection for this caller alone, until `keep` or `drop`.

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
        (answer,) = self._run_calls([Call(script, root, arguments)])
        if isinstance(answer, ResponseError):
            raise to_dramatiq(answer) from answer
        return answer

    def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of several scripts, sent together. The answer of a refused script is its exception."""
        answers = self._run_calls(calls)
        return [to_dramatiq(answer) if isinstance(answer, ResponseError) else answer for answer in answers]

    def run_all(self, calls: Sequence[Call], at_once: int) -> Iterator[Any]:
        """The answers of scripts, `at_once` in a round trip.

        Raises:
            the first exception among the answers.
        """
        for start in range(0, len(calls), at_once):
            for answer in self.run_many(calls[start : start + at_once]):
                if isinstance(answer, Exception):
                    raise answer
                yield answer

    def command(self, *arguments: Argument) -> Any:
        """The answer of a plain command."""

        def talk(connection: Wire) -> Any:
            connection.send_command(*arguments)
            return connection.read_response()

        return self._exchange(talk)

    def scan(self, command: str, key: str, count: int) -> Iterator[list[Any]]:
        """The pages of a key, by HSCAN, SSCAN or ZSCAN."""
        cursor: Argument = 0
        while True:
            cursor, page = self.command(command, key, cursor, "COUNT", count)
            yield page
            if int(cursor) == 0:
                return

    def scan_keys(self, pattern: str, count: int) -> Iterator[list[bytes]]:
        """Pages of the names of keys that match; of a cluster, call it on the node."""
        cursor: Argument = 0
        while True:
            cursor, page = self.command("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            yield page
            if int(cursor) == 0:
                return

    def _run_calls(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of scripts; a refused one's is a `ResponseError`."""
        if self.before_scripts is not None:
            self._prepare()
        if self.clustered:
            calls = [Call(call.script.guarded, call.root, call.arguments) for call in calls]
        packed = [
            pack_command(("EVALSHA", call.script.sha, 1, call.root, *call.arguments))  # type: ignore[arg-type]
            for call in calls
        ]

        def talk(connection: Wire) -> list[Any]:
            connection.send_packed_command((b"".join(packed),), check_health=False)
            answers = [_read(connection) for _ in calls]
            for position, call in enumerate(calls):
                if isinstance(answers[position], NoScriptError):
                    connection.send_command("EVAL", call.script.text, 1, call.root, *call.arguments)
                    answers[position] = _read(connection)
            if any(isinstance(answer, ResponseError) and is_transient(answer) for answer in answers):
                connection.disconnect()  # this may be a former primary now: the next use finds the new one
            return answers

        return cast(list[Any], self._exchange(talk))

    def _exchange(self, talk: Callable[[Wire], Any]) -> Any:
        """Sends and reads on a connection. After an error or an interrupt the connection is not used again.

        Else the rest of an answer would be read as the answer of the next command.
        """
        connection = self.take()
        try:
            answer = talk(connection)
        except ResponseError as error:
            if is_transient(error):
                self.drop(connection)
            else:
                self.keep(connection)
            raise to_dramatiq(error) from error
        except (RedisError, OSError) as error:
            self.drop(connection)
            raise to_dramatiq(error) from error
        except BaseException:
            self.drop(connection)
            raise
        self.keep(connection)
        return answer

    def check(self) -> ServerInfo:
        """Which server answers.

        Raises:
            ServerUnreachable: no server answers.
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
        """Whether the server takes writes to these keys, which stay unchanged, and never evicts keys.

        Raises:
            dramatiq.errors.ConnectionClosed: the server does not answer.
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
            return []  # it is loading its data
        return [fields.get("maxmemory_policy", KEEPING_POLICY)]

    def close(self) -> None:
        """Closes the unused connections. The server can be used again afterwards."""
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return
            self.drop(connection)


def _read(connection: Wire) -> Any:
    """The next answer; a refusal as its error."""
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def with_time_limits(parameters: dict[str, Any]) -> dict[str, Any]:
    """redis-py's connection parameters, with our time limits as defaults."""
    return {"socket_timeout": 5.0, "socket_connect_timeout": 5.0, "max_connections": 2**20, **parameters}


def _info_fields(answer: Any) -> dict[str, str]:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    lines: Iterable[str] = text.splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
