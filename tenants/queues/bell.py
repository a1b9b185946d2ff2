"""The bell: a consumer waits for its lane's signal on the server, for a time-out and for `wake`, all at once.

The signal is an element of a list on the server, which one blocking pop takes. The server's own time-outs are as coarse
as its timer, so the pop has none: this side waits for the socket with `poll`, and the pop stays open between two waits.

Invariants: at most one pop is open; a wait ends at once when any thread calls `wake`; a signal that was taken is
reported exactly once.
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

Signal = Literal["bell", "woken", "timeout"]


class Bell:
    """One consumer's wait. Only `wake` is thread-safe."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._connection: Wire | None = None
        #: The server, or the node of a cluster, of the connection.
        self._node = server
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._closed = False
        self._mutex = threading.Lock()

    def wake(self) -> None:
        """Ends the current wait, or the next one."""
        with self._mutex:
            if self._closed:
                return
            try:
                os.write(self._writing, b"!")
            except BlockingIOError:
                return  # the pipe is full of wake-ups

    def wait(self, seconds: float, *, listen: bool = True) -> Signal:
        """Waits until the bell is signalled, `wake` is called or the time is over.

        With `listen` False no new pop is sent; one that is open is still read.

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
                return "timeout"

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
        """Closes the connection, which also ends the pop on the server."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        if self._connection is not None:
            self._node.drop(self._connection)
            self._connection = None
        os.close(self._reading)
        os.close(self._writing)
