"""Calls a webhook's receiver: one POST to a checked address, without redirects.

Invariant: only the status of the answer is read. So a webhook cannot be used to read internal pages, and a slow or
endless answer costs nothing.
"""

from __future__ import annotations

import httpcore2

from ..errors import CallbackFailed
from ..port import Callback
from .connections import NETWORK_ERRORS, Deadline, exchange

#: Seconds for the whole call: less than the step's limit, so that the step reports the time-out.
_CALL_SECONDS = 9.0


def post(call: Callback) -> int:
    """Make the call; returns the status of the answer.

    Raises:
        UnsafeUrl: the URL leads to an address that is not allowed, or (`HostNotFound`) does not resolve.
        CallbackFailed: there was no answer in HTTP in time.
    """
    headers = {**call.headers, "Content-Type": "application/json", "User-Agent": "onelane-webhook/1"}
    content, deadline = call.body.encode(), Deadline(_CALL_SECONDS)
    try:
        with exchange(
            "POST", call.url, allowed_hosts=call.allowed_hosts, headers=headers, content=content, deadline=deadline
        ) as answer:
            return int(answer.status)
    except httpcore2.TimeoutException as error:
        raise CallbackFailed(f"the receiver did not answer within {_CALL_SECONDS:.0f} s") from error
    except NETWORK_ERRORS as error:
        raise CallbackFailed(f"the receiver could not be called: {type(error).__name__}: {error}") from error
