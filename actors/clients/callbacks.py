"""Calls a webhook's receiver: one POST to an address that was judged, no redirects, and of the answer its head alone.

Invariants
- Each connection goes to the very address that `safe_url` judged (`connections`).
- No proxy of the environment is used; it would connect where it likes.
- Of what the receiver answers only the status is read. So a webhook cannot be used to look at inner pages, and an
  answer that comes slowly, or never ends, costs nothing.
"""

from __future__ import annotations

import httpcore2

from ..errors import CallbackFailed
from ..port import Callback
from .connections import Deadline, JudgedAddresses, wire_url
from .safe_url import check_url

#: Seconds for the whole call, so that its time-out is reported before the step's own limit ends it.
_CALL_SECONDS = 9.0


def post(call: Callback) -> int:
    """Make the call; gives back the status of the answer, whatever it is.

    Raises:
        UnsafeUrl: the URL leads where it must not; `HostNotFound` may pass.
        CallbackFailed: nobody answered, or not in HTTP, or not in time.
    """
    resolved = check_url(call.url, call.allowed_hosts)
    headers = {**call.headers, "Content-Type": "application/json", "User-Agent": "onelane-webhook/1"}
    target, content = wire_url(call.url), call.body.encode()
    try:
        with (
            httpcore2.ConnectionPool(network_backend=JudgedAddresses(resolved, Deadline(_CALL_SECONDS))) as pool,
            pool.stream("POST", target, headers=list(headers.items()), content=content) as answer,
        ):
            return int(answer.status)
    except httpcore2.TimeoutException as error:
        raise CallbackFailed(f"the receiver did not answer within {_CALL_SECONDS:.0f} s") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
        raise CallbackFailed(f"the receiver could not be called: {type(error).__name__}: {error}") from error
