"""Messages between worker, guard, zygote, supervisor and child: JSON with a four-byte length in front.

Invariant: only plain data crosses a process boundary. Nothing is pickled, so a child that was taken over by a web page
can send wrong values, but cannot run code in the worker. Each reader bounds the size of a message.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any, Protocol

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 18
DEFAULT_MAX_BYTES = 1 << 20


class FrameError(ValueError):
    """The peer sent something that is not a frame, or is larger than the reader accepts."""


def plain_json(value: Any) -> bytes:
    """`value` as strict JSON. Raises TypeError or ValueError if JSON, or a JSON column, cannot hold it."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def encode(message: dict[str, Any]) -> bytes:
    body = plain_json(message)
    return _LENGTH.pack(len(body)) + body


def _decode(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise FrameError(f"a message is an object, not {type(message).__name__}")
    return message


def write_frame(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send one message on a blocking socket."""
    sock.sendall(encode(message))


def read_frame(sock: socket.socket) -> dict[str, Any]:
    """Wait for one message on a blocking socket. Raises EOFError when the peer is gone."""
    (length,) = _LENGTH.unpack(_read_exactly(sock, _LENGTH.size))
    return _decode(_read_exactly(sock, length))


def _read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(count - len(data), _CHUNK))
        if not chunk:
            raise EOFError("the other side closed the connection")
        data += chunk
    return bytes(data)


class Source(Protocol):
    """Something with a descriptor to wait on."""

    def fileno(self) -> int: ...


def wait(sources: Iterable[Source], timeout_seconds: float | None, writing: Iterable[Source] = ()) -> list[Source]:
    """The `sources` that can be read or are closed, after waiting at most `timeout_seconds` for one of them.

    Also returns when one of `writing` accepts bytes. poll, not select: a worker may have descriptors above 1023.
    """
    poller = select.poll()
    by_descriptor = {source.fileno(): source for source in sources}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.POLLIN)
    for source in writing:
        events = select.POLLIN if source.fileno() in by_descriptor else 0
        poller.register(source.fileno(), events | select.POLLOUT)
    milliseconds = None if timeout_seconds is None else math.ceil(max(0.0, timeout_seconds) * 1000)
    found = poller.poll(milliseconds)
    return [by_descriptor[fd] for fd, event in found if fd in by_descriptor and event != select.POLLOUT]


class Channel:
    """One end of a connection that a poll loop reads and writes without blocking."""

    def __init__(self, sock: socket.socket, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        sock.setblocking(False)
        self.sock = sock
        #: True after end of file or a broken connection; `pull` has returned everything that arrived before it.
        self.closed = False
        self._max_bytes = max_bytes
        self._incoming = bytearray()
        self._outgoing = bytearray()

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._outgoing) and not self.closed

    def post(self, message: dict[str, Any]) -> None:
        """Send `message`; `flush` sends what the socket does not take now."""
        self._outgoing += encode(message)
        self.flush()

    def flush(self) -> None:
        while self._outgoing:
            try:
                sent = self.sock.send(self._outgoing[:_CHUNK])
            except BlockingIOError:
                return
            except OSError:
                # The peer is gone. Its last messages may still be readable, so `pull` sets `closed`.
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    def pull(self) -> list[dict[str, Any]]:
        """The messages that have arrived. Raises FrameError for what is not a frame."""
        while True:
            try:
                chunk = self.sock.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            if not chunk:
                self.closed = True
                break
            self._incoming += chunk
            if len(self._incoming) > self._max_bytes + _LENGTH.size:
                break
        return list(self._take_whole())

    def _take_whole(self) -> list[dict[str, Any]]:
        messages = []
        while len(self._incoming) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming)
            if length > self._max_bytes:
                raise FrameError(f"a message of {length} bytes, where {self._max_bytes} are allowed")
            end = _LENGTH.size + length
            if len(self._incoming) < end:
                break
            messages.append(_decode(bytes(self._incoming[_LENGTH.size : end])))
            del self._incoming[:end]
        return messages

    def close(self) -> None:
        self.closed = True
        self.sock.close()
