"""Connections to addresses that the guard has judged, within a time that counts from the first byte to the last.

Invariants
- A connection goes to one of the addresses of a `ResolvedUrl`. The name is not resolved again, so a name whose address
  changes between check and use gains nothing.
- The deadline bounds the whole exchange. A time-out per read would let a server send single bytes without an end.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from ..errors import UnsafeUrl
from .safe_url import ResolvedUrl

#: One write to the socket; the time that is left is looked at between two of them.
_WRITE_BYTES = 64 * 1024


class Deadline:
    """A point in time that no read, write or connect passes."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def left(self, timeout: float | None) -> float:
        """The seconds until the deadline, or `timeout` where that is sooner.

        Raises:
            httpcore2.ReadTimeout: none are left.
        """
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time for the whole exchange is over")
        return left if timeout is None else min(left, timeout)


class JudgedAddresses(httpcore2.NetworkBackend):
    """Connects to the judged addresses of one host and port, and to nothing else."""

    def __init__(self, resolved: ResolvedUrl, deadline: Deadline) -> None:
        self._resolved = resolved
        self._deadline = deadline
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        if port != self._resolved.port:
            raise httpcore2.ConnectError(f"{host}:{port} is not where {self._resolved.url} leads")
        failure: Exception = httpcore2.ConnectError("no address")
        for address in self._resolved.addresses:
            left = self._deadline.left(timeout)
            try:
                stream = self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _BoundedStream(stream, self._deadline)
        raise failure


class _BoundedStream(httpcore2.NetworkStream):
    """A stream whose reads and writes all end at the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _BoundedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def wire_url(url: str) -> httpcore2.URL:
    """The URL in ASCII: the host by IDNA, the rest percent-encoded.

    Raises:
        UnsafeUrl: it is not a URL that can be requested.
    """
    try:
        parsed = httpx2.URL(url)
        return httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
    except httpx2.InvalidURL as error:
        raise UnsafeUrl(f"{url!r} is not a URL that can be called: {error}") from error
