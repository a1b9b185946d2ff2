"""Waiting without polling: a consumer blocks on its lane's bell, on its own timer and on permits, all at once.

The server's blocking time-out is only as fine as its tick, so the command blocks for ever and this side keeps the
time, by polling the sockets' readiness. The connection stays in the command between two waits.

Invariants: at most one blocking command is out; a wait ends at once when `wake` is called, from any thread; a bell
that was taken is reported exactly once.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Literal

from dramatiq.errors import BrokerConnectionError
from redis.exceptions import RedisError

from .server import Server, Wire

Heard = Literal["bell", "woken", "nothing"]


class Bell:
    """One consumer's ear. Not thread-safe, but for `wake`."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._connection: Wire | None = None
        #: The server itself, or the node of a cluster, that the connection leads to.
        self._node = server
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._closed = False
        self._mutex = threading.Lock()

    def wake(self) -> None:
        """Ends the wait that is on, or the next one."""
        with self._mutex:
            if self._closed:
                return
            try:
                os.write(self._writing, b"!")
            except BlockingIOError:
                return  # it is full of wake-ups already

    def wait(self, seconds: float, *, listen: bool = True) -> Heard:
        """Until the bell rings, `wake` is called or the time is over.

        With `listen` False no new blocking command is sent, but one that is out is still heard.

        Raises:
            dramatiq.errors.ConnectionClosed: the server has gone.
        """
        if listen and self._connection is None:
            self._listen()
        deadline = time.monotonic() + seconds
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        bell_fd = -1
        if self._connection is not None:
            bell_fd = self._connection._sock.fileno()
            poller.register(bell_fd, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            # poll counts in whole ms; rounding up would make a due message late, rounding down would spin.
            ready = {fd for fd, _ in poller.poll(max(0.0, left) * 1000)}
            if bell_fd in ready and self._take_bell():
                return "bell"
            if self._reading in ready:
                os.read(self._reading, 4096)
                return "woken"
            if left <= 0:
                return "nothing"

    def _listen(self) -> None:
        self._node = self._server.at(self._key)
        try:
            connection = self._node.take()
        except BrokerConnectionError:
            self._server.distrust()
            raise
        try:
            connection.send_command("BLPOP", self._key, 0)
        except (RedisError, OSError) as error:
            self._node.drop(connection)
            raise self._server.failure(error) from error
        self._connection = connection

    def _take_bell(self) -> bool:
        connection, self._connection = self._connection, None
        if connection is None:
            return False
        try:
            connection.read_response()
        except (RedisError, OSError) as error:
            self._node.drop(connection)
            raise self._server.failure(error) from error
        self._node.keep(connection)
        return True

    def close(self) -> None:
        """Hangs up; the server forgets the blocked command with its connection."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        if self._connection is not None:
            self._node.drop(self._connection)
            self._connection = None
        os.close(self._reading)
        os.close(self._writing)
