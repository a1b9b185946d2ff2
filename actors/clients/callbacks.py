"""Calls a webhook's receiver: one POST to an address that was judged, no redirects, and of the answer its head alone.

Invariants
- Each connection goes to the very address that `safe_url` judged: a name that changes its mind gains nothing.
- No proxy of the environment is used; it would connect where it likes.
- Of what the receiver answers only the status is read. So a webhook cannot be used to look at inner pages, and an
  answer that comes slowly, or never ends, costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from ..context import Callback
from ..errors import CallbackFailed, UnsafeUrl
from .safe_url import ResolvedUrl, check_url

#: Seconds for each wait; the step's own limit bounds all of them together.
_WAIT_SECONDS = 9.0


def post(call: Callback) -> int:
    """Make the call; gives back the status of the answer, whatever it is.

    Raises:
        UnsafeUrl: the URL leads where it must not; `HostNotFound` may pass.
        CallbackFailed: nobody answered, or not in HTTP, or not in time.
    """
    resolved = check_url(call.url, call.allowed_hosts)
    waits = dict.fromkeys(("connect", "read", "write", "pool"), _WAIT_SECONDS)
    headers = {**call.headers, "Content-Type": "application/json", "User-Agent": "onelane-webhook/1"}
    target, content = _on_the_wire(call.url), call.body.encode()
    try:
        with (
            httpcore2.ConnectionPool(network_backend=_JudgedAddresses(resolved)) as pool,
            pool.stream(
                "POST", target, headers=list(headers.items()), content=content, extensions={"timeout": waits}
            ) as answer,
        ):
            return int(answer.status)
    except httpcore2.TimeoutException as error:
        raise CallbackFailed(f"the receiver did not answer within {_WAIT_SECONDS:.0f} s") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
        raise CallbackFailed(f"the receiver could not be called: {type(error).__name__}: {error}") from error


def _on_the_wire(url: str) -> httpcore2.URL:
    """The URL in ASCII: the host by IDNA, the rest percent-encoded."""
    try:
        parsed = httpx2.URL(url)
        return httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
    except httpx2.InvalidURL as error:
        raise UnsafeUrl(f"{url!r} is not a URL that can be called: {error}") from error


class _JudgedAddresses(httpcore2.NetworkBackend):
    """Connects to the judged addresses of one host and port, and to nothing else."""

    def __init__(self, resolved: ResolvedUrl) -> None:
        self._resolved = resolved
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
            try:
                return self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure
