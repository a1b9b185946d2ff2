"""HTTP exchanges over connections to checked addresses, with one deadline for the whole exchange.

Invariants
- A connection goes to one of the addresses that `safe_url` has checked. The name is not resolved again, so a change of
  its address after the check has no effect.
- The deadline bounds the whole exchange: with a time-out per read a server could send single bytes forever.
- No proxy of the environment is used: it would connect to any address.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

from ..errors import UnsafeUrl
from .safe_url import ResolvedUrl, check_url

#: What an exchange raises for a network fault, besides `httpcore2.TimeoutException`.
NETWORK_ERRORS = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError)
#: Bytes per write to the socket; the deadline is checked between writes.
_WRITE_BYTES = 64 * 1024


class Deadline:
    """The time at which every connect, read and write ends."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def left(self, timeout: float | None) -> float:
        """The seconds until the deadline, or `timeout` if that is shorter.

        Raises:
            httpcore2.ReadTimeout: none are left.
        """
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time for the whole exchange is over")
        return left if timeout is None else min(left, timeout)


class CheckedAddresses(httpcore2.NetworkBackend):
    """Connects only to the checked addresses of one host and port."""

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
    """A stream whose reads and writes end at the deadline."""

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


@contextmanager
def exchange(
    method: str,
    url: str,
    *,
    allowed_hosts: Collection[str],
    headers: Mapping[str, str],
    content: bytes | None,
    deadline: Deadline,
) -> Iterator[httpcore2.Response]:
    """Send one request over a new connection; the answer's body is not read yet.

    Raises:
        UnsafeUrl: the URL leads to an address that is not allowed.
        httpcore2.TimeoutException, *NETWORK_ERRORS: the exchange failed.
    """
    resolved, target = check_url(url, allowed_hosts), wire_url(url)
    with (
        httpcore2.ConnectionPool(network_backend=CheckedAddresses(resolved, deadline)) as pool,
        pool.stream(method, target, headers=list(headers.items()), content=content) as answer,
    ):
        yield answer


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
